"""Progress: a bar in a terminal, few whole lines in a log, nothing if asked."""

import io
import sys

import pytest

from jsnn.train import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_log_gets_few_lines_and_a_terminal_a_bar(kind, monkeypatch):
    file = kind()
    monkeypatch.setattr(sys, "stderr", file)
    with bar.bar(total=1000, desc="train", mininterval=0.0) if kind is Terminal else bar.bar(total=1000, desc="train") as shown:  # fmt: skip
        for _ in range(1000):
            shown.update(1)
    text = file.getvalue()
    if kind is Terminal:
        assert text.count("\r") > 10
    else:
        assert "\r" not in text
        assert "1000/1000" in text.splitlines()[-1]
        assert len(text.splitlines()) <= 3


def test_hidden_is_hidden(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with bar.bar(hidden=True, total=3) as shown:
        shown.update(3)
    assert sys.stderr.getvalue() == ""
