"""A cut of the soak. `make soak` runs all."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_a_cut_of_the_soak_holds():
    campaigns = ("folders", "flags")
    done = subprocess.run(
        [sys.executable, "-m", "soak", "--only", *campaigns, "--share", "0.01"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    for campaign in campaigns:
        assert f"\n{campaign} " in done.stdout
