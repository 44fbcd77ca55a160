"""Downloads a data set and prepares it in TFDS's own format, without TensorFlow.

TFDS's builders of the MNIST and CIFAR families call TensorFlow to unpack archives and to encode PNG.
Here a subclass keeps their addresses, checksums, version and features and does these two itself; the
folder it writes reads like one of theirs, in the same (shuffled) order.
"""

import contextlib
import errno
import gzip
import io
import logging
import os
import pathlib
import tarfile
import types
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

from jsnn.data.archives import BadArchive, parse_cifar, read_idx, read_tar, to_png
from jsnn.data.dataset import DataError
from jsnn.data.prepared import find_prepared, import_tfds

PREPARABLE = ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100")

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_PROBE_TIMEOUT = 10.0  # s

_logger = logging.getLogger("jsnn")

Examples = Iterator[
    dict[str, Any]
]  # what TFDS stores of each image, feature by feature


def prepare(name: str, data_dir: pathlib.Path) -> pathlib.Path:
    """Downloads and prepares a data set, and returns its folder.

    Downloads stay in `data_dir/downloads`. An archive that lies in `data_dir/downloads/manual/<name>`
    under its original name is used instead, so a machine without a network can be served by hand.

    Raises:
      DataError: no network, a wrong checksum, a damaged archive, no space, or no right to write.
    """
    tfds = import_tfds()
    _logger.info("preparing %s in %s", name, data_dir)
    config = tfds.download.DownloadConfig(
        manual_dir=_manual_dir(name, data_dir),
        try_download_gcs=False,
        force_checksums_validation=True,
    )
    try:
        with _quiet(tfds):
            builder = _make_builder(tfds, name, data_dir)
            builder.download_and_prepare(
                download_config=config, file_format="array_record"
            )
    except Exception as error:
        folder = find_prepared(data_dir, name)
        if folder is not None:  # another process was faster
            return folder
        remedy = _remedy(tfds, name, data_dir, error)
        if remedy is None:
            raise
        raise DataError(remedy) from error
    folder = find_prepared(data_dir, name)
    if folder is None:  # TFDS leaves a folder alone that already exists
        raise DataError(
            f"{builder.data_dir} is not complete (it has no dataset_info.json): delete it "
            "and run again."
        )
    return folder


def _make_builder(
    tfds: types.ModuleType, dataset_name: str, data_dir: pathlib.Path
) -> Any:
    """An instance of TFDS's own builder whose download and encoding need no TensorFlow."""
    base = tfds.builder_cls(dataset_name)
    read = _read_cifar if hasattr(base, "_cifar_info") else _read_mnist

    with tfds.core.registered.skip_registration():

        class Builder(base):
            # TFDS would take the name of the class, and look for checksums beside this file.
            name = dataset_name
            url_infos = base.url_infos

            def _split_generators(self, dl_manager):
                return {
                    s: self._generate_examples(e) for s, e in read(self, dl_manager)
                }

            def _generate_examples(self, examples):
                yield from enumerate(examples)

    return Builder(data_dir=data_dir)


def _read_mnist(builder: Any, dl_manager: Any) -> Iterator[tuple[str, Examples]]:
    names = [name for pair in _IDX_FILES.values() for name in pair]
    paths = _fetch(builder, dl_manager, {name: builder.URL + name for name in names})
    for split, (images_name, labels_name) in _IDX_FILES.items():
        images, labels = read_idx(paths[images_name]), read_idx(paths[labels_name])
        if len(images) != len(labels):
            raise BadArchive(
                f"{images_name} holds {len(images)} images, {len(labels)} labels"
            )
        pairs = zip(images, labels, strict=True)
        yield (
            split,
            ({"image": to_png(image), "label": int(label)} for image, label in pairs),
        )


def _read_cifar(builder: Any, dl_manager: Any) -> Iterator[tuple[str, Examples]]:
    cifar = builder._cifar_info
    path = _fetch(builder, dl_manager, {"archive": cifar.url})["archive"]
    wanted = [*cifar.train_files, *cifar.test_files, *cifar.label_files]
    contents = read_tar(path, prefix=cifar.prefix, names=wanted)
    for key, name in zip(cifar.label_keys, cifar.label_files, strict=True):
        builder.info.features[key].names = contents[name].decode().split()
    for split, names in (("train", cifar.train_files), ("test", cifar.test_files)):
        content = b"".join(contents[name] for name in names)
        yield split, _cifar_examples(split, cifar.label_keys, content)


def _cifar_examples(split: str, label_keys: list[str], content: bytes) -> Examples:
    images, labels = parse_cifar(content, num_labels=len(label_keys))
    for index, (image, row) in enumerate(zip(images, labels, strict=True)):
        example = {"id": f"{split}_{index:05d}", "image": to_png(image)}
        yield example | dict(zip(label_keys, map(int, row), strict=True))


def _fetch(
    builder: Any, dl_manager: Any, urls: dict[str, str]
) -> dict[str, pathlib.Path]:
    """Downloads what is not yet there, or raises within seconds where there is no network.

    TFDS retries an address without an answer for minutes, so one of the missing files is asked for first.
    """
    import requests
    from tensorflow_datasets.core.download import resource

    data_dir = pathlib.Path(builder.data_dir_root)
    for url in urls.values():
        info = builder.url_infos[url]
        downloaded = resource.get_dl_fname(url, info.checksum)
        if (_manual_dir(builder.name, data_dir) / info.filename).exists():
            continue
        if not any((data_dir / "downloads").rglob(downloaded)):
            requests.head(url, timeout=_PROBE_TIMEOUT)
            break
    return {key: pathlib.Path(path) for key, path in dl_manager.download(urls).items()}


def _manual_dir(name: str, data_dir: pathlib.Path) -> pathlib.Path:
    """Where archives can be placed by hand; one a data set, since MNIST's file names recur."""
    return data_dir / "downloads" / "manual" / name


@contextlib.contextmanager
def _quiet(tfds: types.ModuleType) -> Iterator[None]:
    """Without TFDS's progress bars and banners; what goes wrong is raised all the same."""
    from tensorflow_datasets.core.utils import tqdm_utils

    shown = tqdm_utils._active  # there is no public way to ask
    tfds.display_progress_bar(False)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of what TFDS imports lazily
            yield
    finally:
        tfds.display_progress_bar(shown)


def _remedy(
    tfds: types.ModuleType, name: str, data_dir: pathlib.Path, error: Exception
) -> str | None:
    """What to do about an error while preparing; None for one that is not understood."""
    import requests
    from tensorflow_datasets.core.download import download_manager, util

    downloads = data_dir / "downloads"
    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if isinstance(error, (requests.RequestException, util.DownloadError)):
        return (
            f"{name!r} is not in {data_dir}, and downloading it failed ({reason}). Run once on a "
            "machine with a network and copy the folder, or name a folder that holds the data "
            "(`data_dir`, --data-dir, or TFDS_DATA_DIR), or put the archives into "
            f"{_manual_dir(name, data_dir)}, or use `digits`, which needs no download."
        )
    if isinstance(error, download_manager.NonMatchingChecksumError):
        return (
            f"a download for {name!r} is not what it should be ({reason}). Delete {downloads} and "
            "run again."
        )
    if isinstance(
        error, (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, BadArchive)
    ):
        return f"an archive of {name!r} is damaged ({reason}). Delete {downloads} and run again."
    if _is_disk_full(error):
        return (
            f"no space is left in {data_dir} to prepare {name!r} ({reason}). Free some, or name "
            "another folder (`data_dir`, --data-dir, or TFDS_DATA_DIR)."
        )
    if isinstance(error, OSError):
        return (
            f"{name!r} cannot be written to {data_dir} ({reason}). Name a folder that you may "
            "write to (`data_dir`, --data-dir, or TFDS_DATA_DIR)."
        )
    return None


def _is_disk_full(error: Exception) -> bool:
    """By number, or by text from TFDS (which looks first) and from the C++ writer of records."""
    full = (errno.ENOSPC, errno.EDQUOT)
    texts = ("Not enough disk space", *map(os.strerror, full))
    return (isinstance(error, OSError) and error.errno in full) or any(
        text in str(error) for text in texts
    )
