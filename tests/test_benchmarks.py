"""The benchmarks run, count what they say they count, and refuse to compare different work. Speeds are not asserted."""

import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
import types

import jax
import pytest

from benchmarks import (
    against_peers,
    convolution,
    csnn,
    dense,
    event_memory,
    framing,
    machine,
    memory,
    neurons,
    processes,
    rows,
    scaling,
    stdp,
    sweep,
    timing,
    workload,
)
from benchmarks.timing import Sample

_FAKE = """
import sys, time
sys.path.insert(0, {folder!r})
from serve import serve

def build():
    print("a library that talks")
    {body}
    def step():
        block = bytearray({size})
        time.sleep(0.05)
        return float(len(block))
    return step, {{"compile_seconds": 0.0}}

serve(build)
"""
_SIZE = 64_000_000


def fake(body: str = "pass", size: int = _SIZE) -> list[str]:
    folder = str(pathlib.Path(processes.__file__).parent / "peers")
    return [sys.executable, "-c", _FAKE.format(folder=folder, body=body, size=size)]


def test_worker_reports_time_and_peak_memory_of_a_step():
    with processes.Worker("fake", fake()) as worker:
        assert worker.facts["check"] == _SIZE
        sample = worker()
    assert sample.wall >= 0.05  # the step sleeps so long
    assert sample.cpu < sample.wall  # and sleeping takes no processor
    # A bytearray is zeroed, so its pages are held; the kernel counts them in batches, up to some hundred pages late.
    assert 0.95 * _SIZE < worker.peak_bytes < 1.2 * _SIZE


def test_worker_forgets_memory_from_before_the_first_step():
    body = f"bytearray({4 * _SIZE})"  # a compiler's, say: taken and given back
    with processes.Worker("fake", fake(body)) as worker:
        worker()
    assert worker.peak_bytes < 1.2 * _SIZE


def test_worker_says_what_is_missing_and_why_it_died():
    with pytest.raises(processes.Missing, match="no_such_library"):
        processes.Worker("fake", fake("import no_such_library"))
    with pytest.raises(processes.WorkerError, match=r"(?s)code 3.*the reason"):
        processes.Worker(
            "fake", fake("sys.stderr.write('the reason'); sys.exit(3)", size=0)
        )
    with pytest.raises(processes.WorkerError, match="cannot be run"):
        processes.Worker("fake", ["/no/such/python"])


def test_interleaving_rotates_and_summarises():
    order = []

    def call(name, seconds):
        def run():
            order.append(name)
            return Sample(seconds.pop(0), 1.0)

        return run

    calls = {"a": call("a", [3.0, 1.0, 2.0]), "b": call("b", [9.0, 9.0, 9.0])}
    samples = timing.interleave(calls, 3)
    assert "".join(order) == "abbaab"
    found = timing.summary(samples["a"])
    assert (found["seconds_min"], found["seconds_median"]) == (1.0, 2.0)
    assert found["repeats"] == 3
    with pytest.raises(ValueError, match="`repeats`"):
        timing.interleave(calls, 0)


def fake_proc(folder, cpu, processes_):
    """A `/proc` of two cores: counters of the machine, and of processes by number: (parent, utime, stime, cutime, cstime)."""
    lines = [f"cpu  {cpu}", f"cpu0 {cpu}", f"cpu1 {cpu}", "intr 1 2", "btime 3"]
    (folder / "stat").write_text("\n".join(lines))
    for number, (parent, *ticks) in processes_.items():
        (folder / str(number)).mkdir(exist_ok=True)
        fields = f"{number} (a) R b) S {parent} 1 1 0 -1 4194304 9 9 9 9 "
        (folder / str(number) / "stat").write_text(fields + " ".join(map(str, ticks)))
    return machine.read(folder, root=10)


def test_cpu_time_of_others_is_what_is_left_of_the_machines(tmp_path, monkeypatch):
    """In ticks of 10 ms: 300 busy on 2 cores in 2 s, of which 150 are ours, our child's and grandchild's; a tick a core is grain."""
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 100)
    before = fake_proc(
        tmp_path,
        "500 10 90 4000 70 5 5 20 0 0",  # user nice system idle iowait irq softirq steal
        {
            10: (1, 50, 5, 7, 3),
            11: (10, 1, 1, 0, 0),
            12: (11, 4, 0, 0, 0),
            13: (1, 9, 9, 0, 0),
        },
    )
    assert before == (100.0, 6.3, 0.71, 2)
    after = fake_proc(
        tmp_path,
        "700 10 150 4100 70 5 5 60 0 0",
        {
            10: (1, 90, 15, 7, 3),
            11: (10, 61, 1, 0, 0),
            12: (11, 44, 0, 0, 0),
            13: (1, 99, 9, 0, 0),
        },
    )
    assert after is not None
    # 300 - 150 - 2 of 400 ticks
    assert machine.foreign_share(before, after) == pytest.approx(148 / 400)
    assert machine.foreign_share(after, after._replace(clock=103.0)) == 0
    assert machine.foreign_share(None, after) is None
    assert machine.read(tmp_path / "absent") is None


@pytest.mark.skipif(not pathlib.Path("/proc/stat").exists(), reason="not Linux")
def test_cpu_time_of_our_own_processes_is_not_that_of_others():
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with sleeper:
        before, beside = machine.read(), machine.read(root=sleeper.pid)
        subprocess.run([sys.executable, "-c", burn], check=True)
        after, later = machine.read(), machine.read(root=sleeper.pid)
        assert sleeper.stdin is not None
        sleeper.stdin.close()
    assert before is not None
    assert beside is not None
    assert after is not None
    assert later is not None
    assert after.own - before.own >= 0.28  # two ticks less
    assert later.own - beside.own < 0.28
    assert after.busy - before.busy >= 0.2  # the machine's are taken at ticks


def test_disturbed_samples_do_not_count():
    quiet = [Sample(2.0, 1.0, 0.01), Sample(3.0, 1.5, 0.05), Sample(4.0, 2.0, 0.0)]
    loud = [Sample(1.0, 0.1, 0.06), Sample(50.0, 1.0, 0.9)]
    found = timing.summary(quiet + loud)
    assert (found["seconds_min"], found["seconds_median"]) == (2.0, 3.0)
    assert (found["cpu_seconds_min"], found["cpu_seconds_median"]) == (1.0, 1.5)
    assert (found["repeats"], found["counted"]) == (5, 3)
    assert (found["foreign_share"], found["passes"]) == (0.05, True)
    few = timing.summary(quiet[:2] + loud)
    assert (few["counted"], few["passes"]) == (2, False)
    none = timing.summary(loud)
    assert (none["counted"], none["foreign_share"], none["passes"]) == (0, 0.9, False)
    assert none["seconds_min"] == 1.0
    unknown = timing.summary([Sample(1.0, 1.0)] * 3)
    assert (unknown["foreign_share"], unknown["passes"]) == (None, False)


def test_what_does_not_count_is_said(capsys):
    passing = timing.summary([Sample(1.0, 1.0, 0.0)] * 3)
    failing = timing.summary([Sample(1.0, 1.0, 0.5)] * 3)
    rows.report([passing, failing], ("repeats",), benchmark="some", keep=False)
    out = capsys.readouterr().out
    assert "foreign_share" in out
    assert "No evidence, for lack of undisturbed samples: row 2 of 2." in out


def test_samples_know_who_else_works(monkeypatch):
    monkeypatch.setattr(machine, "foreign_share", lambda before, after: 0.25)
    assert timing.once(lambda: None).foreign == 0.25
    with processes.Worker("fake", fake(size=1)) as worker:
        assert worker().foreign == 0.25


def test_rows_are_appended_with_their_context(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    row = rows.context("some") | {"seconds_min": 0.5}
    rows.save([row], "some")
    rows.save([row, row], "some")
    lines = (tmp_path / "results/some.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [row] * 3
    assert {"date", "commit", "device", "versions", "load"} <= row.keys()
    assert rows.table([row], ["seconds_min", "absent"]).split() == [
        *("seconds_min", "absent", "0.5")
    ]


def test_arithmetic_of_a_training_step():
    # The products of one forward step are 2 * (9*32*64*14*14 + 3136*512 + 512*10) = 10.4 MFLOP a sample; the first convolution
    # adds 0.45 once. Forward and two gradients for 128 samples and 100 steps: 401 GFLOP.
    assert math.isclose(workload.training_gflop(100, 128), 401, rel_tol=5e-3)


def test_csnn_measures_a_training_step():
    (row,) = csnn.main(
        csnn.Config(timesteps=(2,), batch_size=2, modes=("train",), repeats=2)
    )
    assert row["repeats"] == 2
    assert 0 < row["seconds_min"] <= row["seconds_median"]
    assert row["compile_seconds"] > 0
    # The plan must hold the gradient of 1.6 million weights in float32; batch and steps are too few to add much.
    assert 6.4e6 < row["temp_gb"] * 1e9 < 6.4e7
    # Layers that fire: a silent output has a loss of ln 10 exactly.
    assert abs(row["check"] - math.log(10)) > 1e-3


def test_csnn_infers_a_class_for_every_image():
    net = workload.reference(3, 4)
    found = jax.eval_shape(net.infer, net.params, net.images)
    assert found.shape == (4,)
    assert net.arrays["conv2.weight"].shape == (3, 3, 32, 64)
    assert net.arrays["dense2.weight"].shape == (512, 10)


def test_memory_compares_with_the_unblocked_case(monkeypatch):
    started = []

    class Stub:
        def __init__(self, name, work):
            remat = work.get("remat", False)
            started.append((name, work.get("block_size"), remat))
            self.peak_bytes = 100 if remat else 1000
            self.facts = {"compile_seconds": 1.0, "check": 0.0, "temp_bytes": 10}

        def __call__(self):
            return Sample(1.3, 1.0) if self.peak_bytes == 100 else Sample(1.0, 1.0)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(processes, "csnn_worker", Stub)
    plain, blocked = memory.main(memory.Config(block_sizes=(25,)))
    assert started == [("unblocked", None, False), ("blocks of 25", 25, True)]
    assert plain["peak_ratio"] == plain["time_ratio"] == 1
    assert math.isclose(blocked["peak_ratio"], 0.1)
    assert math.isclose(blocked["time_ratio"], 1.3)


def test_neurons_agree_with_the_plain_scan():
    found = neurons.main(
        neurons.Config(
            neurons=(8,),
            batch_size=2,
            timesteps=(5,),
            block_sizes=(),
            repeats=1,
            min_seconds=1e-4,
        )
    )
    assert len(found) == 2 * 2
    assert all(
        row["ratio"] == 1 for row in found if row["variant"] == neurons.YARDSTICK
    )
    with pytest.raises(RuntimeError, match="other differs"):
        neurons._check("other", neurons.np.ones(3), neurons.np.zeros(3))


def test_convolution_runs_inside_and_outside_a_scan(monkeypatch):
    some = {"weight gradient": convolution.OPERATIONS["weight gradient"]}
    monkeypatch.setattr(convolution, "OPERATIONS", some)
    cfg = convolution.Config(
        shapes=((2, 5, 1, 3),), scan_steps=2, repeats=1, min_seconds=1e-4, matrix=16
    )
    found = convolution.main(cfg)
    assert len(found) == 1 + 2 * 2
    # Operations of one convolution times the scan's two steps.
    row = found[-1]
    assert row["inside_scan"]
    gflop = row["gflop_per_second"] * row["seconds_median"]
    assert math.isclose(gflop, 2e-9 * 2 * 2 * 25 * 9 * 3)


@pytest.mark.skipif(
    importlib.util.find_spec("snntorch") is not None, reason="snnTorch is installed"
)
def test_peers_that_are_missing_are_left_out(monkeypatch, capsys):
    facts = {"compile_seconds": 0.0, "backend": "cpu", "versions": {}}
    own = fake()
    own[-1] = own[-1].replace('{"compile_seconds": 0.0}', repr(facts))
    monkeypatch.setattr(
        processes, "csnn_worker", lambda name, work: processes.Worker(name, own)
    )
    no_arrays = types.SimpleNamespace(arrays={})
    monkeypatch.setattr(workload, "reference", lambda *_: no_arrays)
    cfg = against_peers.Config(("snntorch",), timesteps=(2,), batch_size=2, rounds=1)
    found = against_peers.main(cfg)
    assert len(found) == 1
    assert found[0]["library"] == "jsnn"
    assert found[0]["ratio_min"] == 1
    assert "Left out, not installed: snntorch" in capsys.readouterr().out


def test_peers_that_do_other_work_are_refused():
    found = [
        {"library": "jsnn", "loss": 2.0},
        {"library": "spikingjelly-single", "loss": 2.5},
        {"library": "snntorch", "loss": 2.0004},
    ]
    against_peers.check_losses(found)
    found[-1]["loss"] = 2.1
    with pytest.raises(RuntimeError, match="same work"):
        against_peers.check_losses(found)


@pytest.mark.skipif(
    "JSNN_PEER_PYTHON" not in os.environ,
    reason="set JSNN_PEER_PYTHON to a Python that has snntorch and spikingjelly",
)
def test_peers_agree_on_the_loss():
    cfg = against_peers.Config(
        peer_python=pathlib.Path(os.environ["JSNN_PEER_PYTHON"]),
        timesteps=(3,),
        batch_size=4,
        hoisted=True,
        rounds=1,
    )
    found = {row["library"]: row for row in against_peers.main(cfg)}
    assert set(found) == {"jsnn", *against_peers.variants(cfg)}
    # The four ways through SpikingJelly are one computation, the two through snnTorch another.
    jelly = [row["loss"] for name, row in found.items() if "jelly" in name]
    assert max(jelly) - min(jelly) < 1e-3
    assert abs(jelly[0] - found["jsnn"]["loss"]) > 1e-3


def test_dense_layers_in_a_process_of_their_own():
    """The recurrent network holds every part: input, recurrent and output weights, and gradients of all."""
    cfg = dense.Config(
        network=("recurrent",),
        neurons=(128,),
        timesteps=(20,),
        batch_size=2,
        peers=(),
        rounds=1,
    )
    forward, both = dense.main(cfg)
    assert forward["check"] == pytest.approx(both["check"], rel=1e-4)
    assert forward["check"] != 0
    assert forward["ratio_median"] == 1


def test_saved_rows_of_dense_layers_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    cfg = dense.Config(figure=tmp_path / "dense.png", drawn_only=True)
    with pytest.raises(ValueError, match=r"--save"):
        dense.main(cfg)
    work = {"network": "lif", "direction": "forward", "timesteps": 5, "device": "here"}
    seconds = {("jsnn", 16): 3.0, ("peer", 16): 2.0, ("peer", 64): 9.0}
    saved = [
        work | {"library": library, "neurons": n, "seconds_median": s}
        for (library, n), s in seconds.items()
    ]
    again = saved[0] | {"seconds_median": 1.0}
    rows.save([*saved, again], "dense")
    assert dense.main(cfg) == [*saved, again]
    assert cfg.figure.stat().st_size > 0
    (ax,) = dense.draw([*saved, again]).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn == {"jsnn": [[16, 1]], "peer": [[16, 2], [64, 9]]}
    elsewhere = saved[0] | {"device": "there"}
    assert len(dense.draw([*saved, elsewhere]).axes) == 2
    with pytest.raises(ValueError, match=r"--figure"):
        dense.main(dense.Config(drawn_only=True))


def test_sweep_against_runs_in_turn(monkeypatch):
    """Any pure program serves; the network's own takes half a minute to compile."""
    import jax.numpy as jnp

    from jsnn.train.sweep import Program

    def program(epochs):
        def train(key, values, data):
            w = jax.random.normal(key, (3,)) + epochs * data
            return {"norm": jnp.square(w).sum()}

        return Program(train, jnp.ones(3), lambda key, values: jnp.ones(3))

    monkeypatch.setitem(sweep.PROGRAMS, "tiny", program)
    cfg = sweep.Config(experiments=("tiny",), members=(3,), at_once=(1, 3))
    row, other = sweep.main(cfg)
    assert (row["at_once"], other["at_once"]) == (1, 3)
    assert row["ratio_in_turn"] > 0
    assert row["ratio_anew"] == pytest.approx(
        row["seconds_one_program"] / row["seconds_anew"]
    )


def test_scaling_does_the_same_work_on_more_devices(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    cfg = scaling.Config(
        devices=(1, 2), scaling=("strong",), timesteps=2, batch_size=2, rounds=1
    )
    one, two = scaling.main(cfg)
    assert one["efficiency"] == 1
    assert two["efficiency"] == pytest.approx(
        one["seconds_median"] / two["seconds_median"] / 2
    )
    assert one["check"] == pytest.approx(two["check"], abs=1e-5)


TINY_STDP = stdp.Config(images=6, blocks=(2,), rounds=1, min_seconds=0.01)


def test_stdp_measures_every_layer(monkeypatch):
    trains, timed = stdp.unsupervised.run, set()

    def what_trains(spec, *args, **options):
        timed.add(spec)
        return trains(spec, *args, **options)

    monkeypatch.setattr(stdp.unsupervised, "run", what_trains)
    found = stdp.main(TINY_STDP)
    assert timed == {block.branches[0] for block in stdp.NETWORK.blocks}
    assert [(row["layer"], row["library"]) for row in found] == [
        (name, "jsnn") for name in "123"
    ]
    assert all(row["seconds_min"] > 0 for row in found)


def test_stdp_refuses_a_peer_that_learns_something_else(monkeypatch):
    other = types.SimpleNamespace(facts={"check": 0.5})
    monkeypatch.setattr(processes, "start_peers", lambda *_: {"1": other})
    with pytest.raises(ValueError, match="not the same work"):
        stdp.main(TINY_STDP)


def test_memory_of_events_is_measured_in_processes_of_their_own():
    found = event_memory.main(event_memory.Config(recordings=130, events=50))
    assert [row["case"] for row in found] == list(event_memory.CASES)
    assert all(0 < row["start_gb"] <= row["peak_gb"] < 4 for row in found)
    assert found[0]["events"] == 130 * 50


def test_framing_counts_every_event(capsys):
    found = framing.main(framing.Config(recordings=3, events=40, timesteps=2, rounds=1, min_seconds=0.01))  # fmt: skip
    assert [row["library"] for row in found] == ["jsnn, packed", "jsnn, flat"]
    assert all(row["recordings_per_second"] > 0 for row in found)
    assert "tonic" in capsys.readouterr().out


def test_framing_refuses_a_peer_that_counts_other_events(monkeypatch):
    worker = types.SimpleNamespace(facts={"check": 100.0})
    monkeypatch.setattr(processes, "start_peers", lambda *_: {"tonic": worker})
    with pytest.raises(ValueError, match="tonic counts 100 events, jsnn 120"):
        framing.main(framing.Config(recordings=3, events=40, rounds=1, min_seconds=0.01))  # fmt: skip
