"""What a result came from: commit, device and versions."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

import jax

PACKAGES = ("jsnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def commit() -> str:
    """The commit this code is at, with `+` if files differ from it; `unknown` if it is not in a repository."""
    here = pathlib.Path(__file__).parent

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=here, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # the repository is not another's
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device() -> str:
    """The device in words: kind, and for a CPU its model and the cores this process may use."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return f"{len(jax.devices())} x {first.device_kind}"
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        lines = (x for x in info.read_text().splitlines() if x.startswith("model name"))
        model = next(lines, f"x: {model}").partition(":")[2].strip()
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return f"CPU {model}, {cores} cores"


def versions() -> dict[str, str]:
    """Versions of the packages a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "source"
    return found
