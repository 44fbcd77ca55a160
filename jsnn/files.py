"""Files that are written whole or not at all, and never through a link."""

import contextlib
import json
import os
import pathlib
import uuid
from collections.abc import Callable
from typing import Any, BinaryIO

Content = str | bytes | Callable[[BinaryIO], object]


def write(path: pathlib.Path, content: Content) -> pathlib.Path:
    """Writes a file under a new name and renames it: a kill or a full disk leaves what was there before, and a link in its place is not followed.

    Args:
      path: of the file; its folder exists.
      content: text, bytes, or a function that writes to a binary file.

    Raises:
      OSError: if it cannot be written; nothing half-written stays.
    """
    if isinstance(content, str):
        content = content.encode()
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the new name must not come before the content
        return part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def cache() -> pathlib.Path:
    """The folder of what can be made again: named by `JSNN_CACHE`, by default the user's cache folder.

    Raises:
      RuntimeError: if it lies in a home folder, and there is none.
    """
    import platformdirs

    own = os.environ.get("JSNN_CACHE")
    # Without a home: ~/…, or an error.
    return pathlib.Path(own or platformdirs.user_cache_path("jsnn")).expanduser()


def probe(folder: pathlib.Path) -> None:
    """Sees that a folder takes files.

    Raises:
      OSError: if it does not.
    """
    write(folder / uuid.uuid4().hex, b"").unlink()


def sweep(folder: pathlib.Path) -> None:
    """Deletes what a kill left of `write`."""
    for part in folder.glob(f".*.{'?' * 32}.part"):
        part.unlink()


def append(path: pathlib.Path, line: str) -> None:
    """Adds a line at the end of a file, as `add`."""
    add(path, line.encode() + b"\n")


def add(path: pathlib.Path, data: bytes) -> None:
    """Adds data at the end of a file; if the disk is full, none of it.

    Raises:
      OSError: if it cannot be written, or a link stands in its place.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), size)
            raise


def sync(path: pathlib.Path) -> None:
    """Waits until a file, if there is one, lies on the disk.

    Raises:
      OSError: if the disk does not take it.
    """
    with contextlib.suppress(FileNotFoundError):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def mend(path: pathlib.Path) -> None:
    """Ends a file of JSON lines in a newline: a last line that is whole gets one, one that a kill cut short is dropped.

    Raises:
      OSError: if the file cannot be read or written.
    """
    if not path.exists():
        return
    data = path.read_bytes()
    if not data or data.endswith(b"\n"):
        return
    kept, _, last = data.rpartition(b"\n")
    kept += b"\n" if kept else b""
    if _is_object(last):
        kept += last + b"\n"
    write(path, kept)


def parsed(text: str | bytes) -> Any:
    """What JSON stands for.

    Raises:
      ValueError: if it is none, or is nested beyond what Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _is_object(line: bytes) -> bool:
    try:
        found = parsed(line)
    except ValueError:
        return False
    return isinstance(found, dict)
