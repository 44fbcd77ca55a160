"""Weights of a method's terms: checked, and changed one by one."""

from collections.abc import Sequence

from jsnn import check
from jsnn.continual.method import Method, Settings, default_settings

# What they may be; all others "[0, inf)".
RANGES = {
    "temperature": "(0, inf)",
    "damping": "(0, inf)",
    "ridge": "(0, inf)",
    "decay": "[0, 1]",
    "shrinkage": "[0, 1]",
}


def check_settings(settings: Settings, prefix: str = "") -> None:
    """Refuses weights out of range; those that are traced pass.

    Raises:
      ValueError: if one is; `prefix` stands before its name.
    """
    for part, values in settings.items():
        for name, value in values.items():
            interval = RANGES.get(name, "[0, inf)")
            check.number(f"{prefix}{part}.{name}", value, interval)


def with_settings(
    method: Method, given: Settings, others: Settings | None = None
) -> Settings:
    """The method's weights with those that are `given`; all others are its defaults, or `others`.

    Raises:
      ValueError: if the method has no such weight.
    """
    found = default_settings(method)
    if others is not None:
        found = {part: dict(values) for part, values in others.items()}
    known = ", ".join(f"{part}.{name}" for part, ws in found.items() for name in ws)
    for part, values in given.items():
        for name, value in values.items():
            if name not in found.get(part, {}):
                raise ValueError(
                    f"`settings` name {part}.{name}; this method has {known or 'none'}."
                )
            found[part][name] = value
    return found


def parse_settings(texts: Sequence[str], method: Method) -> Settings:
    """The method's weights with those of texts TERM.WEIGHT=VALUE, as `--settings` has them.

    Raises:
      ValueError: if a text has another form, or the method no such weight, or a value is out of range.
    """
    found: Settings = {}
    defaults = default_settings(method)
    known = ", ".join(f"{t}.{w}={v}" for t, ws in defaults.items() for w, v in ws.items())  # fmt: skip
    for text in texts:
        name, _, value = text.partition("=")
        term, _, weight = name.partition(".")
        try:
            found.setdefault(term, {})[weight] = float(value)
            with_settings(method, found)
        except ValueError as error:
            raise ValueError(
                f"`--settings {text}` must be TERM.WEIGHT=VALUE; this method has {known or 'none'}."
            ) from error
    check_settings(found, "--settings ")
    return with_settings(method, found)
