"""Recordings of sound: padded samples in memory, who spoke, and the ways to divide them into training and test data.

`jsnn.sound` makes features and spikes of them inside the compiled step.

Axes: N recordings, L samples of the longest of them.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jsnn import check
from jsnn.data import audio_files
from jsnn.data.arrays import read_arrays
from jsnn.data.dataset import DataError, Dataset, Split, check_labels
from jsnn.data.prepared import resolve_data_dir

KEYS = ("audio", "offsets", "label", "rate")
NUM_TEST_TAKES = 5  # of the Free Spoken Digit Dataset: its authors test on 0 to 4


@dataclasses.dataclass(frozen=True)
class Audio:
    """Recordings of one sampling rate. `recordings` makes a checked one."""

    name: str
    samples: np.ndarray  # [N, L] int16, zeros past the end of a recording
    labels: np.ndarray  # [N] int32
    speakers: np.ndarray  # [N] text
    takes: np.ndarray  # [N] int32: the how-manieth recording of this speaker and class
    rate: int  # samples a second

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1


def recordings(
    audio: Any,
    offsets: Any,
    label: Any,
    rate: Any,
    *,
    speaker: Any = None,
    index: Any = None,
    seconds: float | None = None,
    name: str = "audio",
) -> Audio:
    """Makes checked recordings of flat arrays.

    >>> recordings(np.arange(5, dtype=np.int16), [0, 2, 5], [0, 1], 8000).samples.tolist()
    [[0, 1, 0], [2, 3, 4]]

    Args:
      audio: all samples, one recording after the other, `[E]` int16.
      offsets: where each recording begins, and the end of the last, `[N + 1]`.
      label: class indices `[N]`.
      rate: samples a second.
      speaker: names `[N]`; one speaker if None.
      index: the take `[N]`, counted from 0 within a speaker and class; the order in the arrays if None.
      seconds: later samples of longer recordings are left out; all are kept if None.
      name: what reports call the data.

    Raises:
      ValueError: arrays that do not fit together, an empty recording, samples of another type.
    """
    flat, ends = np.asarray(audio), np.asarray(offsets)
    if flat.ndim != 1 or flat.dtype != np.int16:
        raise ValueError(
            f"`audio` must be int16 along one axis, got {flat.dtype} of shape {flat.shape}: scale floats by 32767 and mix channels first."
        )
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or len(ends) < 2 or ends[0] != 0 or ends[-1] != len(flat):  # fmt: skip
        raise ValueError(
            f"`offsets` must be whole numbers from 0 to the number of samples, {len(flat)}, got {ends.ravel()[:1]}…{ends.ravel()[-1:]}."
        )
    counts = np.diff(ends.astype(np.int64))
    if (counts < 1).any():
        at = int(np.argmax(counts < 1))
        raise ValueError(
            f"recording {at} is empty (`offsets[{at}:{at + 2}]` is {ends[at : at + 2]}): leave it out, with its label."
        )
    labels = check_labels("`label`", np.asarray(label), None)
    speakers = np.full(len(labels), "") if speaker is None else np.asarray(speaker)
    given = {"label": labels, "speaker": speakers}
    if index is not None:
        given["index"] = np.asarray(index, np.int32)
    for what, values in given.items():
        if values.shape != counts.shape:
            raise ValueError(
                f"`{what}` has shape {values.shape}, but there are {len(counts)} recordings."
            )
    takes = given["index"] if index is not None else _ranks(labels, speakers)
    rate = check.whole("rate", rate, 1)
    longest = int(counts.max())
    if seconds is not None:
        check.number("seconds", seconds, "(0, inf)")
        longest = min(longest, max(1, round(seconds * rate)))
    samples = np.zeros((len(counts), longest), np.int16)
    for row, start, count in zip(samples, ends[:-1], counts, strict=True):
        row[:count] = flat[start : start + min(count, longest)]
    return Audio(name, samples, labels, speakers, takes, rate)


def _ranks(labels: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    """How many recordings of the same label and speaker come before each."""
    seen: dict[tuple[int, str], int] = {}
    ranks = np.zeros(len(labels), np.int32)
    for i, cell in enumerate(zip(labels.tolist(), speakers.tolist(), strict=True)):
        ranks[i] = seen.get(cell, 0)
        seen[cell] = ranks[i] + 1
    return ranks


def load(
    name: str | os.PathLike[str] = "spoken_digits",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seconds: float | None = None,
) -> Audio:
    """Reads recordings by name, or from an `.npz` file of your own.

    The file holds flat arrays `audio` (int16) and `offsets`: recording i is `offsets[i]:offsets[i+1]`. Then `label` `[N]`, `rate`, and perhaps
    `speaker` and `index` `[N]`; see `recordings`.

    Args:
      name: `"spoken_digits"`, the Free Spoken Digit Dataset, from a folder that holds it; or the path of an `.npz` file.
      data_dir: the folder; defaults to the variable `TFDS_DATA_DIR`, else to `~/tensorflow_datasets`. Found are what TFDS prepared
        (`spoken_digit`), and the authors' wave files.
      seconds: later samples of longer recordings are left out.

    Raises:
      DataError: no such file, a file or folder that holds something else, or nothing is found; the message says what to put where.
      ValueError: an unknown name, or what `recordings` refuses.
    """
    path = pathlib.Path(name)
    if path.suffix == ".npz":
        return _own(path, seconds)
    if name != "spoken_digits":
        raise ValueError(
            f"`name` must be 'spoken_digits' or the path of an .npz file, got {os.fspath(name)!r}."
        )
    found = audio_files.spoken_digits(resolve_data_dir(data_dir))
    return recordings(**found, seconds=seconds, name="spoken_digits")


def _own(path: pathlib.Path, seconds: float | None) -> Audio:
    found = read_arrays(path)
    if missing := [key for key in KEYS if key not in found]:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(found) or 'nothing'}."
        )
    given = {k: found[k] for k in (*KEYS, "speaker", "index") if k in found}
    return recordings(**given, seconds=seconds, name=path.stem)


def official(audio: Audio) -> np.ndarray:
    """Which recordings `[N]` the authors of the Free Spoken Digit Dataset test on: takes 0 to 4 of each speaker and digit."""
    return audio.takes < NUM_TEST_TAKES


def one_speaker(audio: Audio, speaker: str) -> np.ndarray:
    """Which recordings `[N]` are this speaker's: tests on a voice that training never heard.

    Raises:
      ValueError: no such speaker.
    """
    check.choice("speaker", speaker, np.unique(audio.speakers).tolist())
    return audio.speakers == speaker


def fold(audio: Audio, which: int, folds: int) -> np.ndarray:
    """Which recordings `[N]` are in this fold of `folds`. Each has equally many of each speaker and class, by the remainder of the take."""
    folds = check.whole("folds", folds, 2)
    return audio.takes % folds == check.whole("which", which, 0, folds - 1)


def dataset(audio: Audio, test: np.ndarray, *, validation_takes: int = 0) -> Dataset:
    """Training, validation and test data, with the samples `[N, L]` as inputs.

    >>> audio = recordings(np.ones(4, np.int16), range(5), [0, 0, 1, 1], 8000)
    >>> len(dataset(audio, fold(audio, 0, 2)).train.labels)
    2

    Args:
      audio: recordings.
      test: which to test on, `[N]`; from `official`, `one_speaker` or `fold`.
      validation_takes: of the others, how many of each speaker and class are held out for choices on the way: the first ones.

    Raises:
      ValueError: nothing is left to train or to test on.
    """
    rest = np.flatnonzero(~test)
    rest = rest[np.argsort(audio.takes[rest], kind="stable")]
    rank = np.zeros(len(test), np.int64)
    rank[rest] = _ranks(audio.labels[rest], audio.speakers[rest])
    validation = ~test & (rank < check.whole("validation_takes", validation_takes, 0))
    train = ~test & ~validation
    if not train.any() or not test.any():
        raise ValueError(
            f"{train.sum()} recordings are left to train on and {test.sum()} to test on: give each at least one."
        )
    parts = [_part(audio, which) for which in (train, validation, test)]
    names: Sequence[str] = [str(i) for i in range(audio.num_classes)]
    held = parts[1] if validation.any() else None
    return Dataset(audio.name, parts[0], held, parts[2], tuple(names), rate=audio.rate)


def _part(audio: Audio, which: np.ndarray) -> Split:
    return Split(audio.samples[which], audio.labels[which])
