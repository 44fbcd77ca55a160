"""A cut of the soak. `make soak` runs all."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("campaign", "share"),
    [("folders", 0.03)],
)
def test_a_cut_of_the_soak_holds(campaign, share):
    done = subprocess.run(
        [sys.executable, "-m", "soak", "--only", campaign, "--share", str(share)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"\n{campaign} " in done.stdout
