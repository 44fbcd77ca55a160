"""Disks that take nothing more: a file system of 1 MB that is full or read-only, and one that refuses pictures."""

import contextlib
import errno
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from jsnn import files


@contextlib.contextmanager
def mounted(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Mounts one on `folder`; skips the test, visibly, where it may not."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the right to mount a tmpfs ({error})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: pathlib.Path) -> pathlib.Path:
    """Takes all the space that is left, in the file it returns."""
    with pytest.raises(OSError, match="No space"):
        (folder / "filler").write_bytes(bytes(2_000_000))
    return folder / "filler"


def make_read_only(folder: pathlib.Path) -> None:
    """Permission bits would not stop root; this does."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


@contextlib.contextmanager
def without_pictures() -> Iterator[None]:
    """A disk that is full whenever a picture is written."""
    write = files.write

    def refused(path, content):
        if path.suffix == ".png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write", refused)
        yield
