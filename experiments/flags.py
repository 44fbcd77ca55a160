"""Checks a script's flags against the tables of `experiments.rules`: numbers in their range, and no flag that would do nothing.

A flag counts as given where it differs from its default, so defaults never offend.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_type_hints

from jsnn import check


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
      ranges: of every number, as intervals that `jsnn.check` reads.
      needs: flags that depend on others.
      before: `(config) -> values`: what a run did that was older than a flag, for `jsnn.train.runs.Run`.
    """

    ranges: Mapping[str, str]
    needs: Sequence[Needs] = ()
    before: Callable[[Any], Mapping[str, Any]] = lambda config: {}


def name(field: str) -> str:
    """The flag of a config's field."""
    return f"--{field.replace('_', '-')}"


def kinds(hint: Any) -> tuple[Any, ...]:
    """A field's type, and what it is the union or the tuple of."""
    return hint, *(kind for part in get_args(hint) for kind in kinds(part))


@functools.cache
def numbers(config: type) -> dict[str, type]:
    """Fields that hold numbers, whole or not; of the fields that hold several, those of each."""
    found = {}
    for field, hint in get_type_hints(config).items():
        for kind in (int, float):
            if kind in kinds(hint):
                found[field] = kind
    return found


def check_ranges(config: Any, ranges: Mapping[str, str]) -> None:
    """Refuses numbers out of range.

    Raises:
      ValueError: with the flag, its value, and the range.
    """
    for field, kind in numbers(type(config)).items():
        value = getattr(config, field)
        for x in value if isinstance(value, tuple) else [value]:
            if x is None:
                continue
            if kind is float:
                check.number(name(field), x, ranges[field])
                continue
            low, high = ranges[field][1:-1].split(",")
            check.whole(name(field), x, int(low), None if "inf" in high else int(high))


def given(config: Any, defaults: Mapping[str, Any]) -> set[str]:
    """Fields whose value is neither the class's default nor one of `defaults`."""
    return {
        f.name
        for f in dataclasses.fields(config)
        if f.default is not dataclasses.MISSING
        and getattr(config, f.name) not in (f.default, None)
        and not (f.name in defaults and getattr(config, f.name) == defaults[f.name])
    }


def check_all(config: Any, rules: Rules) -> None:
    """Refuses numbers out of range, and flags that would do nothing."""
    check_ranges(config, rules.ranges)
    check_needs(config, rules)


def check_needs(config: Any, rules: Rules, defaults: Mapping[str, Any] = {}) -> None:
    """Refuses flags that would do nothing.

    Args:
      config: a script's.
      rules: the script's.
      defaults: those that depend on other flags, such as a recipe's.

    Raises:
      ValueError: with the flag, its value, and what to do about it.
    """
    asked = given(config, defaults)
    for needs in rules.needs:
        useless = asked & {*needs.flags.split()}
        if useless and not needs.holds(config):
            flag = min(useless)
            raise ValueError(
                f"`{shown(flag, getattr(config, flag))}` would do nothing: it needs {needs.words}. Add what it needs, or leave it out."
            )


def shown(field: str, value: Any) -> str:
    """A flag as it is typed."""
    if isinstance(value, bool):
        return name(field) if value else f"--no-{name(field)[2:]}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join([name(field), *map(str, values)])


def check_seeds(config: Any) -> None:
    """Refuses `--seeds` so many that the last seed is beyond 2^32 - 1.

    Raises:
      ValueError: if so.
    """
    if config.seed + config.seeds > 2**32:
        raise ValueError(
            f"`--seed {config.seed}` and `--seeds {config.seeds}` go beyond the largest seed, {2**32 - 1}. Lower either."
        )
