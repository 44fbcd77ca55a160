"""Two processes of one run: a signal to one of them, or to both, ends both within a step, saved; started again they end the same to the bit."""

import json
import pathlib
import random
import signal
import socket
import time
from collections.abc import Iterator

from soak import warm
from soak.kills import compare
from soak.outcome import chosen

FLAGS = (
    "--data digits --network mlp --hidden 12 --timesteps 2 --batch-size 128 --epochs 12 --log-every 2 --eval-every 50 "
    "--checkpoint-seconds 3600 --no-progress --mesh data=2 --num-processes 2"
)
SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130}


def start(out: pathlib.Path, *more: str) -> list[warm.Child]:
    """Both processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    args = ["csnn_mnist", "--out", str(out), *FLAGS.split(), "--coordinator", f"localhost:{port}"]  # fmt: skip
    return [
        warm.start(warm.script([*args, "--process-id", str(i), *more]))
        for i in range(2)
    ]


def steps(out: pathlib.Path) -> int:
    """Of the last row."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def check(
    which: tuple[int, ...],
    number: signal.Signals,
    due: int,
    whole: pathlib.Path,
    out: pathlib.Path,
) -> str | None:
    """What did not hold, in words."""
    pair, last = start(out), time.monotonic() + 300
    while steps(out) < due and time.monotonic() < last:
        if any(child.poll() for child in pair):
            return f"ended too early: {pair[0].wait().said[-300:]}"
        time.sleep(0.005)
    for i in which:
        pair[i].send(number)
    told = steps(out)
    ended = [child.wait() for child in pair]
    codes = [e.code for e in ended]
    if codes != [SIGNALS[number]] * 2:
        return f"ended with {codes}: {' / '.join(e.said[-400:] for e in ended)}"
    if "Traceback" in ended[0].said + ended[1].said:
        return f"a traceback: {ended[0].said[-400:]} / {ended[1].said[-400:]}"
    if steps(out) > told + 12:  # rows of a stretch come together
        return f"went on from step {told} to {steps(out)}"
    if not list((out / "checkpoints").glob("step_????????")):
        return "saved nothing"
    again = [child.wait() for child in start(out, "--resume")]
    if [e.code for e in again] != [0, 0]:
        return f"does not resume: {again[0].said[-300:]} / {again[1].said[-300:]}"
    return compare(whole, out)


def run(
    seed: int, share: float, folder: pathlib.Path
) -> Iterator[tuple[str, str | None]]:
    """The campaign."""
    rng, whole = random.Random(seed), folder / "whole"
    if any(child.wait().code for child in start(whole)):
        raise RuntimeError("Two processes do not run.")
    cases = [(w, n) for w in ((0,), (1,), (0, 1)) for n in SIGNALS]
    for number, (which, sent) in enumerate(chosen(cases, seed, share)):
        due = rng.randrange(2, 100)
        why = check(which, sent, due, whole, folder / str(number))
        yield f"{sent.name} to {which} after step {due}", why
