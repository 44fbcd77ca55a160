"""Compiled programs and freed memory are kept, in a process of its own, for both change the whole process."""

import json
import os
import subprocess
import sys

import pytest

from jsnn import memory

PROGRAM = """
import json, pathlib, resource, sys
import jax, jax.numpy as jnp
import jsnn

sys.argv[1] == "off" and jax.config.update("jax_enable_compilation_cache", False)
if sys.argv[1] == "own":
    jax.config.update("jax_compilation_cache_dir", sys.argv[2])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jsnn.compilation.keep()
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if "cache_hits" in name else None)
run = jax.jit(lambda x: jnp.cumsum(x[:, None] * x, axis=0).sum())  # works in 64 MB
x = jnp.ones(4096)
values = [float(run(x)) for _ in range(3)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
values.append(float(run(x)))
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps({"values": values, "hits": len(hits), "faults": faults}))
"""


def run(tmp_path, how="", **env):
    env = {**os.environ, "JSNN_CACHE": str(tmp_path / "cache"), **env}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-c", PROGRAM, how, str(tmp_path / "own")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return json.loads(done.stdout)


def files(folder):
    return list(folder.rglob("*-cache"))


def test_the_second_process_finds_what_the_first_compiled(tmp_path):
    first, second = run(tmp_path), run(tmp_path)
    assert first["hits"] == 0
    assert second["hits"] > 0
    assert first["values"] == second["values"]
    folder = tmp_path / "cache/compiled"
    assert files(folder)
    assert folder.stat().st_mode & 0o77 == 0, "others may not plant programs here"


glibc = pytest.mark.skipif(not memory._glibc(), reason="another C library")


@glibc
def test_freed_memory_serves_the_next_step(tmp_path):
    found = run(tmp_path, GLIBC_TUNABLES=memory.TUNABLES)
    assert found["faults"] < 200, "64 MB are 16,384 pages"


@glibc
@pytest.mark.parametrize("before", ["", "import numpy; "])
def test_a_process_starts_again_unless_it_is_at_work(before):
    inner = "import os; print(os.environ['GLIBC_TUNABLES'])"
    outer = f"{before}import sys; from jsnn import memory; sys.orig_argv = ['', '-c', {inner!r}]; memory.restart()"
    env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", outer]
    said = subprocess.check_output(command, env=env, text=True).strip()
    assert said == ("" if before else memory.TUNABLES)


def test_what_jax_was_told_stands(tmp_path):
    run(tmp_path, "own")
    assert files(tmp_path / "own")
    run(tmp_path, "off")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("blocked", ["a file in its place", "no home"])
def test_without_a_folder_programs_are_compiled_as_ever(tmp_path, blocked):
    if blocked == "no home":
        env = {"JSNN_CACHE": "~nobody-of-this-name/cache"}
    else:
        (tmp_path / "cache").write_text("")
        env = {}
    assert run(tmp_path, **env)["values"]
