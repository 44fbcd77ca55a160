"""A folder belongs to one process at a time."""

import contextlib
import fcntl
import os
import pathlib
import socket
import warnings
import weakref

NAME = ".lock"
# Of this process: to open the same run once more, as a notebook does, is no conflict.
_held: "weakref.WeakValueDictionary[tuple[int, int], Lock]" = (
    weakref.WeakValueDictionary()
)


class LockedError(OSError):
    """Another process holds the folder; the message says which."""


class Lock:
    """Holds a file open and locked for as long as this object lives. The kernel lets go of it when the process ends, however it does.

    Raises:
      OSError: if the file cannot be made: the folder is not there, is read-only, or a link stands in its place.
      LockedError: if another process holds it.
    """

    def __init__(self, folder: pathlib.Path):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        file = os.open(folder / NAME, flags, 0o666)
        weakref.finalize(self, os.close, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 200).decode(errors="replace").strip()
            raise LockedError(f"by {holder or 'another process'}") from error
        except OSError as error:
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}): its file system has no locks. See that no other process uses it.",
                stacklevel=2,
            )
        stat = os.fstat(file)
        self.inode = stat.st_dev, stat.st_ino
        with contextlib.suppress(OSError):  # a full disk; only the message is poorer
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())


def hold(folder: pathlib.Path) -> Lock:
    """The lock of a folder; the same one if this process has it already.

    Raises:
      OSError: as `Lock`.
    """
    with contextlib.suppress(FileNotFoundError):
        stat = os.lstat(folder / NAME)
        if (held := _held.get((stat.st_dev, stat.st_ino))) is not None:
            return held
    lock = Lock(folder)
    return _held.setdefault(lock.inode, lock)
