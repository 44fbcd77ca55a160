"""The files in which MNIST's and CIFAR's authors publish them, as arrays."""

import gzip
import io
import math
import os
import struct
import tarfile

import numpy as np
from jaxtyping import UInt8

_CIFAR_SHAPE = (
    3,
    32,
    32,
)  # channels first: all red pixels, then all green, then all blue


class BadArchive(ValueError):
    """A file that unpacks to something other than it should."""


def read_idx(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "..."]:
    """Reads a gzipped IDX file of bytes.

    Two zero bytes, the type (8: uint8), the number of axes, their sizes as big-endian 32-bit
    integers, then the data. Reference: https://yann.lecun.org/exdb/mnist/
    """
    with gzip.open(path) as file:
        content = file.read()
    header = 4 + 4 * content[3] if len(content) > 3 else 4
    if content[:3] != b"\0\0\x08" or len(content) < header:
        raise BadArchive(f"{path} is no IDX file of bytes")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    if len(content) - header != math.prod(shape):
        raise BadArchive(
            f"{path} announces {shape}, but holds {len(content) - header} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_tar(
    path: str | os.PathLike[str], *, prefix: str, names: list[str]
) -> dict[str, bytes]:
    """The contents of the named files below `prefix` in a compressed tar archive."""
    contents = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix(prefix)
            if name in names and (file := archive.extractfile(member)) is not None:
                contents[name] = file.read()
    if missing := [name for name in names if name not in contents]:
        raise BadArchive(f"{path} lacks {', '.join(missing)}")
    return contents


def parse_cifar(
    content: bytes, *, num_labels: int
) -> tuple[UInt8[np.ndarray, "N 32 32 3"], UInt8[np.ndarray, "N labels"]]:
    """Images and labels of CIFAR's binary version: in each record first the labels, a byte each.

    CIFAR-100 has two, coarse and fine. Reference: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    record_size = num_labels + math.prod(_CIFAR_SHAPE)
    if len(content) % record_size:
        raise BadArchive(
            f"{len(content)} bytes are no multiple of a record's {record_size}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record_size)
    images = records[:, num_labels:].reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1)
    return images, records[:, :num_labels]


def to_png(image: UInt8[np.ndarray, "H W"] | UInt8[np.ndarray, "H W 3"]) -> io.BytesIO:
    """The image as a PNG file in memory: lossless."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG")
    buffer.seek(0)
    return buffer
