"""Results as rows: one JSON object a measurement, with device, versions, commit, date and how busy the machine was."""

import datetime
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from jsnn.train import provenance

RESULTS = pathlib.Path(__file__).parent / "results"
# Processes waiting for a core, on average over the last minute, above which a machine is not called quiet.
_QUIET = 0.5


def context(benchmark: str) -> dict[str, Any]:
    """What every row says about where it comes from. Call it before measuring: `load` is the machine's own then."""
    load = os.getloadavg()[0]
    if load > _QUIET:
        print(
            f"Note: load average is {load:.1f}, so other work shares this machine. Samples that it disturbs are dropped."
        )
    return {
        "benchmark": benchmark,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": provenance.commit(),
        "device": provenance.device(),
        "load": round(load, 2),
        "versions": provenance.versions(),
    }


def save(rows: Sequence[dict[str, Any]], benchmark: str) -> pathlib.Path:
    """Appends rows to `results/BENCHMARK.jsonl`; nothing there is ever replaced."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{benchmark}.jsonl"
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def load(benchmark: str) -> list[dict[str, Any]]:
    """The rows kept in `results/BENCHMARK.jsonl`, oldest first.

    Raises:
      ValueError: if there are none.
    """
    path = RESULTS / f"{benchmark}.jsonl"
    if not path.exists():
        raise ValueError(f"No rows in {path}; measure with `--save` first.")
    return [json.loads(line) for line in path.read_text().splitlines()]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """The named columns of the rows as aligned text; what a row lacks stays blank."""
    cells = [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in [list(columns), *cells]
    )


def report(
    rows: Sequence[dict[str, Any]],
    columns: Sequence[str],
    *,
    benchmark: str,
    keep: bool,
) -> None:
    """Prints the table and which rows do not count, and saves the rows on request."""
    print(table(rows, (*columns, "counted", "foreign_share")))
    failed = [n for n, row in enumerate(rows, 1) if not row.get("passes", True)]
    if failed:
        print(
            f"No evidence, for lack of undisturbed samples: row {', '.join(map(str, failed))} of {len(rows)}. Measure again on a quiet machine."
        )
    if keep:
        print(f"{len(rows)} rows added to {save(rows, benchmark)}")
