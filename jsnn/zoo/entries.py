"""Entries of the zoo: a file NAME.safetensors as `Fitted.save` writes it, and a card NAME.json beside it."""

import json
import pathlib
import textwrap
from typing import Any, NamedTuple

import numpy as np

from jsnn import check, files
from jsnn.train import fitted, rebuild, saved

FOLDER = pathlib.Path(__file__).parent


class Card(NamedTuple):
    """What is known about a network of the zoo.

    >>> card = jsnn.zoo.card("spoken_digits")
    >>> card.experiment, card.data["name"]
    ('sound', 'Free Spoken Digit Dataset')

    Attributes:
      name: of the entry.
      about: what it is, in a sentence.
      inputs: what `predict` takes: `shape` of a sample, `dtype`, and `meaning` in words.
      classes: a name for each label.
      test_accuracy: share of the whole test set that the stored weights get right.
      test_samples: size of the test set.
      first: of the first samples of the test set: their number, `samples`, and how many are `right`. For quick tests.
      run_accuracy: the same as `test_accuracy`, as the training run itself found it before anything was stored.
      protocol: which test set, and how the model was chosen.
      seeds: the `seed` of the stored weights, and `accuracies` of this and other runs, by what differs, with `mean` and `deviation` of several.
      command: trains it again.
      experiment: the script of the command.
      commit: of the library that trained it.
      versions: of the packages that trained it.
      device: what it was trained on.
      data: `name`, `source` and `licence` of the data. The data are not part of the library.
      licence: of the weights.
      operations: of one sample, mean over `samples`: `synaptic` additions that spikes cause, and `multiply_accumulates` of analogue inputs.
      parameters: numbers stored.
      storage: their type in the file; `load` gives float32.
      bytes: of the file.
    """

    name: str
    about: str
    inputs: dict[str, Any]
    classes: list[str]
    test_accuracy: float
    test_samples: int
    first: dict[str, int]
    run_accuracy: float
    protocol: str
    seeds: dict[str, Any]
    command: str
    experiment: str
    commit: str
    versions: dict[str, str]
    device: str
    data: dict[str, str]
    licence: str
    operations: dict[str, Any]
    parameters: int
    storage: str
    bytes: int

    def __str__(self) -> str:
        """A line for each field."""
        lines = []
        for name, value in self._asdict().items():
            if isinstance(value, dict):
                value = ", ".join(f"{k.replace('_', ' ')} {_shown(v)}" for k, v in value.items())  # fmt: skip
            text = f"{name.replace('_', ' '):<15}{_shown(value)}"
            lines += textwrap.wrap(text, 92, subsequent_indent=" " * 15)
        return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        sizes = all(isinstance(x, int) for x in value)
        return f"[N, {', '.join(map(str, value))}]" if sizes else ", ".join(map(_shown, value))  # fmt: skip
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_shown(v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def names() -> list[str]:
    """Names of all networks of the zoo.

    >>> "spoken_digits" in jsnn.zoo.names()
    True

    Returns:
      The names, in the order of the alphabet.
    """
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def card(name: str) -> Card:
    """What is known about a network of the zoo. `print` shows it well.

    >>> jsnn.zoo.card("spoken_digits").inputs["shape"]
    [8000]

    Args:
      name: one of `names()`.

    Returns:
      The card.

    Raises:
      ValueError: if there is no such network.
    """
    check.choice("name", name, names())
    return read_card(FOLDER / f"{name}.json")


def read_card(path: check.Path) -> Card:
    """The card in a file.

    >>> read_card(jsnn.zoo.FOLDER / "spoken_digits.json").name
    'spoken_digits'

    Args:
      path: the file.

    Returns:
      The card.

    Raises:
      ModelError: if it cannot be read.
    """
    path = check.path("path", path)
    try:
        return Card(**files.parsed(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise saved.ModelError(f"{path} is no card of the zoo ({error}).") from error


def cards() -> list[Card]:
    """The cards of all networks.

    >>> all(card.test_accuracy > 0.9 for card in jsnn.zoo.cards())
    True

    Returns:
      The cards, in the order of `names()`.
    """
    return [card(name) for name in names()]


def load(name: str) -> fitted.Fitted:
    """A trained network that predicts. Nothing is downloaded.

    >>> fitted = jsnn.zoo.load("spoken_digits")
    >>> fitted.predict(np.zeros((1, 8000), np.int16)).scores.shape  # a second of silence
    (1, 10)

    Args:
      name: one of `names()`.

    Returns:
      The network. `predict` takes inputs as the card's `inputs` describes them; `save` writes a file that `jsnn.load` reads.

    Raises:
      ValueError: if there is no such network.
      ModelError: if its file is damaged.
    """
    check.choice("name", name, names())
    return read(FOLDER / f"{name}.safetensors")


def read(path: pathlib.Path) -> fitted.Fitted:
    """The network in a file of the zoo."""
    arrays, about = saved.read(path)
    arrays = {
        name: x.astype(np.float32) if x.dtype == np.float16 else x
        for name, x in arrays.items()
    }
    trainer = rebuild.trainer_of(path, about)
    return fitted.restored(
        trainer, saved.fill(path, arrays, saved.templates(trainer)), about
    )


def write_card(path: pathlib.Path, found: Card) -> None:
    """Writes a card."""
    files.write(path, json.dumps(found._asdict(), indent=2, ensure_ascii=False) + "\n")
