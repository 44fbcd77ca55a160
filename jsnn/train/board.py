"""TensorBoard's event files, written row by row: no thread of another library writes later, or waits for a full disk."""

import pathlib
import shutil
import socket
import struct
import time
from typing import Any

from jsnn import files


class Board:
    """Event files of a run's rows. Those in the folder are replaced: they cannot be cut where a resumed run goes on.

    Args:
      folder: for the files; all that is in it is removed.

    Raises:
      ImportError: without the package tensorboardX, which knows the format.
      OSError: if the folder cannot be written.
    """

    def __init__(self, folder: pathlib.Path):
        from tensorboardX import record_writer, summary
        from tensorboardX.proto import event_pb2

        self._event: Any = vars(event_pb2)["Event"]
        self._scalar, self._checksum = summary.scalar, record_writer.masked_crc32c
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._path = folder / name
        files.add(self._path, self._record(file_version="brain.Event:2"))

    def _record(self, **fields: Any) -> bytes:
        """A message between its length and its checksum."""
        data = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        sums = (struct.pack("<I", self._checksum(x)) for x in (length, data))
        return length + next(sums) + data + next(sums)

    def show(self, row: dict[str, Any]) -> None:
        """Adds the numbers of a row, under its `split` and its `step`.

        Raises:
          OSError: if the disk does not take them; none of them is written then.
        """
        split, step = row.get("split", "run"), row.get("step", 0)
        numbers = {
            f"{split}/{name}": value
            for name, value in row.items()
            if isinstance(value, float) and name not in ("seconds", "epoch")
        }
        records = (
            self._record(step=step, summary=self._scalar(name, value))
            for name, value in numbers.items()
        )
        files.add(self._path, b"".join(records))
