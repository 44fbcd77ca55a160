"""Where `fit` puts rows when there is no run folder."""

from typing import Any

from jsnn.train.runs import plain


class Log:
    """Rows in memory; nothing is saved, and nothing resumed."""

    resume = False
    place = "nothing was saved, for `fit` was given no `run`"

    def __init__(self):
        self._rows: list[dict[str, Any]] = []

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return list(self._rows)

    def log(self, row: dict[str, Any]) -> None:
        """Keeps a row, as a file would: numbers that are not finite become None."""
        self._rows.append(plain(row))

    def rewind(self, step: int) -> None:
        """Nothing to drop."""

    def restore(self, *templates: Any) -> Any:
        """The state as it came."""
        return templates[0]

    def save(self, step: int, state: Any, unlogged: Any = None) -> None:
        """Keeps nothing."""

    def unlogged(self, step: int) -> dict[str, Any]:
        """Nothing."""
        return {}
