"""Checks of a script's flags: numbers in the range that their type names, and no flag that would do nothing.

A flag counts as given where it differs from its default, so defaults never offend.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

from jsnn import check

# Kinds of numbers: a flag's type says its range, as an interval that `jsnn.check` reads.
# Steps and samples are counted in 32 bits.
Count = Annotated[int, "[1, 2147483647]"]
Natural = Annotated[int, "[0, 2147483647]"]
Seed = Annotated[int, "[0, 4294967295]"]
Positive = Annotated[float, "(0, inf)"]
NotNegative = Annotated[float, "[0, inf)"]
NotPositive = Annotated[float, "(-inf, 0]"]
Share = Annotated[float, "(0, 1]"]


class Needs(NamedTuple):
    """Flags that do nothing unless a condition holds.

    Attributes:
      flags: their names, separated by spaces.
      holds: `(config) -> bool`: whether they matter.
      words: what would make them matter, after "it needs".
    """

    flags: str
    holds: Callable[[Any], bool]
    words: str


class Rules(NamedTuple):
    """What a script asks of its flags.

    Attributes:
      script: its name.
      needs: flags that depend on others.
      before: `(config) -> values`: what a run did that was older than a flag.
      renamed: old names of flags, and what they are called now.
      retired: flags that are no more, and what is meant by them now.
      free: flags that may change when a run is resumed, beside those of every script.
    """

    script: str
    needs: Sequence[Needs] = ()
    before: Callable[[Any], Mapping[str, Any]] = lambda config: {}
    renamed: Mapping[str, str] = {}
    retired: Mapping[str, Sequence[str]] = {}
    free: Sequence[str] = ()

    def upgrade(self, old: Mapping[str, Any]) -> dict[str, Any]:
        """The flags of an older run under today's names."""
        found = {self.renamed.get(name, name): value for name, value in old.items()}
        if "validation" in found:  # of the 1,000 published points, all or none
            found["num_validation"] = 1000 if found.pop("validation") else 0
        return found


def name(field: str) -> str:
    """The flag of a config's field."""
    return f"--{field.replace('_', '-')}"


def kinds(hint: Any) -> tuple[Any, ...]:
    """A field's type, what it is the union or the tuple of, and what is annotated."""
    return hint, *(kind for part in get_args(hint) for kind in kinds(part))


@functools.cache
def numbers(config: type) -> dict[str, tuple[type, str]]:
    """Fields that hold numbers, one or several, whose types name a range: their kind, `int` or `float`, and the range."""
    found, hints = {}, get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        parts = kinds(hints[field.name])
        intervals = [x for x in parts if type(x) is str and x[0] in "(["]
        if intervals:
            found[field.name] = int if int in parts else float, intervals[0]
    return found


def check_ranges(config: Any) -> None:
    """Refuses numbers out of range.

    Raises:
      ValueError: with the flag, its value, and the range.
    """
    for field, (kind, interval) in numbers(type(config)).items():
        value = getattr(config, field)
        for x in value if isinstance(value, tuple) else [value]:
            if x is None:
                continue
            if kind is float:
                check.number(name(field), x, interval)
                continue
            low, high = interval[1:-1].split(",")
            if interval in (get_args(Count)[1], get_args(Natural)[1]):
                check.whole(
                    name(field), x, int(low)
                )  # and only then the bound of 32 bits
            check.whole(name(field), x, int(low), None if "inf" in high else int(high))


def check_needs(
    config: Any, needs: Sequence[Needs], defaults: Mapping[str, Any] = {}
) -> None:
    """Refuses flags that would do nothing.

    Args:
      config: a script's.
      needs: the script's.
      defaults: those that depend on other flags, such as a recipe's.

    Raises:
      ValueError: with the flag, its value, and what to do about it.
    """
    asked = {
        f.name
        for f in dataclasses.fields(config)
        if f.default is not dataclasses.MISSING
        and getattr(config, f.name) not in (f.default, None)
        and not (f.name in defaults and getattr(config, f.name) == defaults[f.name])
    }
    for flags, holds, words in needs:
        useless = asked & {*flags.split()}
        if useless and not holds(config):
            flag = min(useless)
            raise ValueError(
                f"`{shown(flag, getattr(config, flag))}` would do nothing: it needs {words}. Add what it needs, or leave it out."
            )


def shown(field: str, value: Any) -> str:
    """A flag as it is typed."""
    if isinstance(value, bool):
        return name(field) if value else f"--no-{name(field)[2:]}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join([name(field), *map(str, values)])
