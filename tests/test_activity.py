"""What a network is said to do, against float64 loops over time written from the equations and counts made by hand."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsnn
from jsnn import activity, layers, neurons
from jsnn.unroll import Constant

T, B = 6, 4


def build(*parts, **options):
    return layers.split(layers.Sequence(*parts, **options))


def loop(currents, beta, threshold, recurrent=None):
    """LIF with immediate subtraction: membranes before the reset, and spikes, `[T, B, N]` in float64."""
    v = np.zeros(currents.shape[1:])
    s = np.zeros_like(v)
    membranes, spikes = [], []
    for current in currents:
        v = beta * v + current + (0 if recurrent is None else s @ recurrent)
        s = (v > threshold).astype(float)
        membranes.append(v)
        spikes.append(s)
        v = v - threshold * s
    return np.stack(membranes), np.stack(spikes)


def as64(x):
    return np.asarray(x, np.float64)


def convolve(x, weight):
    """3x3 convolution with zero padding, `[H, W, I] -> [H, W, O]`."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    y = np.zeros((height, width, weight.shape[-1]))
    for i in range(3):
        for j in range(3):
            y += padded[i : i + height, j : j + width] @ weight[i, j]
    return y


@pytest.fixture
def convolutional():
    """Conv, batch norm with statistics of its own, LIF, average pool, dense, LIF of a threshold per neuron, integrator."""
    rngs = nnx.Rngs(3)
    norm = layers.BatchNorm(2)
    norm.mean[...], norm.var[...] = jnp.array([0.1, -0.2]), jnp.array([0.3, 0.5])
    return build(
        layers.Conv(1, 2, rngs=rngs),
        norm,
        layers.Sequence(
            layers.Neurons(neurons.lif(beta=0.8)), layers.AvgPool(), block_size=1
        ),
        layers.Dense(8, 3, rngs=rngs),
        layers.Neurons(neurons.lif(beta=0.9, threshold=np.array([0.2, 0.3, 0.4]))),
        layers.Neurons(neurons.leaky_integrator(beta=0.5)),
        block_size=2,
    )


def images():
    return jax.random.uniform(jax.random.key(5), (B, 4, 4, 1), minval=0, maxval=3)


def test_record_is_a_loop_over_time(convolutional):
    graphdef, model = convolutional
    x = images()
    got = jax.jit(lambda m, x: activity.record(graphdef, m, Constant(x, T)))(model, x)

    net = nnx.merge(graphdef, *model)
    conv, norm, _, dense = list(net.layers)[:4]
    current = np.stack([convolve(image, as64(conv.weight[...])) for image in as64(x)])
    current = (current + as64(conv.bias[...]) - as64(norm.mean[...])) / np.sqrt(
        as64(norm.var[...]) + 1e-5
    )
    v1, s1 = loop(np.broadcast_to(current, (T, *current.shape)), 0.8, 1.0)
    pooled = s1.reshape(T, B, 2, 2, 2, 2, 2).mean((3, 5))
    drive = pooled.reshape(T, B, 8) @ as64(dense.weight[...]) + as64(dense.bias[...])
    v2, s2 = loop(drive, 0.9, np.array([0.2, 0.3, 0.4]))
    v3 = np.zeros((T, B, 3))
    for t in range(T):
        v3[t] = (0.5 * v3[t - 1] if t else 0) + s2[t]

    assert 0.05 < s1.mean() < 0.95
    assert 0.05 < s2.mean() < 0.95
    assert len(got) == 3
    for one, spikes, membrane in zip(got, (s1, s2, None), (v1, v2, v3), strict=True):
        # Float32 sums of six steps; a spike that differed would show as a whole threshold.
        np.testing.assert_allclose(one.membrane, membrane, atol=2e-5)
        if spikes is None:
            assert one.spikes is None
            assert one.threshold is None
        else:
            np.testing.assert_array_equal(one.spikes, spikes)
    np.testing.assert_allclose(got[1].threshold, [0.2, 0.3, 0.4])


def test_record_ends_in_the_output_of_apply(convolutional):
    """One step too, where neurons are not scanned; a signal as well as a constant."""
    graphdef, model = convolutional
    signal = jax.random.uniform(jax.random.key(6), (T, B, 4, 4, 1), maxval=3)
    run = jax.jit(lambda m, x: layers.apply(graphdef, m, x)[0])
    record = jax.jit(lambda m, x: activity.record(graphdef, m, x)[-1])
    for x in (Constant(images(), 1), signal):
        want, got = run(model, x), record(model, x)
        assert np.asarray(want).any() or len(want) == 1
        # Convolutions of one step and of all are summed in another order.
        np.testing.assert_allclose(got.output, want, atol=1e-5)


def test_recurrent_layer():
    rngs = nnx.Rngs(0)
    graphdef, model = build(
        layers.Dense(5, 7, rngs=rngs),
        layers.Neurons(
            neurons.lif(beta=0.7, threshold=0.5), recurrent=7, rngs=nnx.Rngs(1)
        ),
    )
    x = jax.random.normal(jax.random.key(2), (T, B, 5)) * 3
    dense, layer = list(nnx.merge(graphdef, *model).layers)
    drive = as64(x) @ as64(dense.weight[...]) + as64(dense.bias[...])
    v, s = loop(drive, 0.7, 0.5, recurrent=as64(layer.recurrent[...]))
    (got,) = activity.record(graphdef, model, x)
    assert 0.1 < s.mean() < 0.9
    np.testing.assert_array_equal(got.spikes, s)
    np.testing.assert_allclose(got.membrane, v, atol=2e-5)
    assert got.threshold == 0.5

    assert activity.weight_names(graphdef, model) == ["dense 1", "dense 1 recurrent"]
    dense_row, recurrent_row = activity.synaptic_operations(graphdef, model, x)
    np.testing.assert_array_equal(dense_row.macs, np.full(B, T * 5 * 7))
    np.testing.assert_array_equal(recurrent_row.accumulates, 7 * s[:-1].sum((0, 2)))
    assert s[-1].any()
    assert recurrent_row.conventional == 0


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("kind", ["lif", "delayed", "current", "adaptive", "recurrent"])
def test_membranes_are_those_compared_with_the_threshold(kind, reset):
    """A neuron spikes exactly where its membrane is drawn above its threshold, and both are those of a float64 loop."""
    rng, beta, theta, rho, alpha, c = np.random.default_rng(0), 0.75, 0.5, 0.5, 0.25, 2
    make = {
        "current": lambda **k: neurons.current_lif(alpha=alpha, **k),
        "adaptive": lambda **k: neurons.adaptive_lif(rho=rho, strength=c, **k),
    }.get(kind, neurons.lif)
    options = {"beta": beta, "threshold": theta, "reset": reset}
    if kind == "delayed":
        options["delayed_reset"] = True
    neuron = make(**options)
    weight = rng.integers(-4, 5, (3, 3)) / 4 * (kind == "recurrent")
    layer = layers.Neurons(neuron)
    if kind == "recurrent":
        layer = layers.Neurons(neuron, recurrent=3, rngs=nnx.Rngs(0))
        assert layer.recurrent is not None
        layer.recurrent[...] = jnp.asarray(weight, jnp.float32)
    # Multiples of a power of two, so that float32 is exact for the few steps that decide.
    x = rng.integers(-2, 7, (T, B, 3)) / 8
    (got,) = activity.record(*build(layer), jnp.asarray(x, jnp.float32))
    assert got.spikes is not None
    assert got.threshold is not None
    v = i = a = s = np.zeros((B, 3))
    for t in range(T):
        i = (alpha * i if kind == "current" else 0) + x[t] + s @ weight
        if kind == "delayed":  # the reset of the spike before comes now
            v = beta * (v * (1 - s) if reset == "zero" else v) + i
            v = v - theta * s if reset == "subtract" else v
        else:
            v = beta * v + i
        now = theta + c * a if kind == "adaptive" else theta
        s = (v > now).astype(float)
        np.testing.assert_allclose(got.membrane[t], v, atol=1e-6)
        np.testing.assert_array_equal(got.spikes[t], s)
        drawn = np.broadcast_to(got.threshold, got.membrane.shape)[t]
        np.testing.assert_allclose(drawn, np.broadcast_to(now, v.shape), atol=1e-6)
        np.testing.assert_array_equal(got.spikes[t], got.membrane[t] > drawn)
        a = rho * a + s
        if kind != "delayed":
            v = {"subtract": v - now * s, "zero": v * (1 - s), "none": v}[reset]
    assert 0 < np.asarray(got.spikes).mean() < 1
    assert float(got.membrane.max()) > theta


def test_names():
    rngs = nnx.Rngs(0)
    lif = neurons.lif()
    graphdef, model = build(
        layers.Neurons(lif),
        layers.Sequence(layers.Conv(1, 2, rngs=rngs), layers.BatchNorm(2)),
        layers.Neurons(lif),
        layers.Neurons(lif),
        layers.Conv(2, 2, rngs=rngs),
        layers.Neurons(lif),
        layers.Dense(8, 2, rngs=rngs),
    )
    assert activity.neuron_names(graphdef, model) == [
        "neurons 1",
        "conv 1",
        "neurons 2",
        "conv 2",
    ]
    assert activity.weight_names(graphdef, model) == ["conv 1", "conv 2", "dense 1"]


def test_operations_are_counted_target_by_target(convolutional):
    graphdef, model = convolutional
    x = Constant(images(), T)
    rows, activities = jax.jit(
        lambda m: (
            activity.synaptic_operations(graphdef, m, x),
            activity.record(graphdef, m, x),
        )
    )(model)
    names = activity.weight_names(graphdef, model)
    assert names == ["conv 1", "dense 1"]
    # 4x4 image, 3x3 kernel: 4 corners reach 4 outputs, 8 edges 6, 4 inner pixels 9; two features.
    conv_macs = 2 * (4 * 4 + 8 * 6 + 4 * 9)
    np.testing.assert_array_equal(rows[0].macs, np.full(B, conv_macs))
    np.testing.assert_array_equal(rows[0].accumulates, np.zeros(B))
    assert rows[0].conventional == conv_macs
    spikes = np.asarray(activities[0].spikes)
    pooled = spikes.reshape(T, B, 2, 2, 2, 2, 2).mean((3, 5))
    graded = (pooled > 0) & (pooled < 1)
    assert graded.any()
    assert (pooled == 1).any()
    axes = (0, 2, 3, 4)
    np.testing.assert_array_equal(rows[1].accumulates, 3 * (pooled == 1).sum(axes))
    np.testing.assert_array_equal(rows[1].macs, 3 * graded.sum(axes))
    assert rows[1].conventional == 8 * 3

    costs = activity.energy(rows)
    want = 0.9e-12 * rows[1].accumulates + 4.6e-12 * (conv_macs + rows[1].macs)
    np.testing.assert_allclose(costs.spiking, want, rtol=1e-6)  # float32
    assert float(costs.conventional) == pytest.approx(4.6e-12 * (conv_macs + 24))


def two_layers(weights):
    """Two dense layers of 200 LIF neurons with every weight of a layer the same."""
    rngs = nnx.Rngs(0)
    parts = []
    for weight in weights:
        dense = layers.Dense(200, 200, bias=False, rngs=rngs)
        dense.weight[...] = jnp.full((200, 200), weight)
        parts += [dense, layers.Neurons(neurons.lif(reset="zero"))]
    return build(*parts)


@pytest.mark.parametrize(
    ("weights", "named", "unnamed"),
    [
        ((-1.0, 1.0), r"Silent: `dense 1` \(0 %.*, `dense 2`", "Saturated"),
        ((1.0, -1.0), r"Silent: `dense 2` .*Saturated: `dense 1` \(.*100 %", "never"),
        ((1.0, 1.0), r"^Saturated: `dense 1` .*, `dense 2`", "Silent"),
    ],
)
def test_check_names_silent_and_saturated_layers(weights, named, unnamed):
    graphdef, model = two_layers(weights)
    activities = activity.record(graphdef, model, Constant(jnp.ones((B, 200)), T))
    with pytest.warns(UserWarning, match=named) as caught:
        activity.check(activities, activity.neuron_names(graphdef, model))
    assert len(caught) == 1
    assert unnamed not in str(caught[0].message)


def test_check_is_quiet_about_healthy_layers(convolutional):
    """An integrator, whose output is no spikes, is neither silent nor saturated."""
    graphdef, model = convolutional
    activities = activity.record(graphdef, model, Constant(images(), T))
    rates = [float(activity.firing(a).rate) for a in activities[:2]]
    assert all(0.05 < rate < 0.95 for rate in rates)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        activity.check(activities, activity.neuron_names(graphdef, model))


def test_check_thresholds():
    """Two neurons in 100 that spike once are enough; 18 of 20 steps are not too many."""
    spikes = np.zeros((20, 2, 100), np.float32)
    spikes[3, 1, 7:9] = 1
    busy = np.ones((20, 2, 100), np.float32)
    busy[:2] = 0
    for healthy, worse in ((spikes, spikes * 0), (busy, np.ones_like(busy))):
        for array, count in ((healthy, 0), (worse, 1)):
            one = activity.Activity(jnp.asarray(array), jnp.zeros(()), jnp.ones(()))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                activity.check([one], ["dense 1"])
            assert len(caught) == count


def test_firing_of_a_layer_without_spikes_is_refused():
    integrator = activity.Activity(None, jnp.zeros((T, B, 2)), None)
    with pytest.raises(ValueError, match="`activity` is of a layer without spikes"):
        activity.firing(integrator)


def test_vmap_over_models_equals_a_loop():
    def one(key):
        return build(
            layers.Dense(6, 8, init="kaiming", rngs=nnx.Rngs(key)),
            layers.Neurons(neurons.lif(beta=0.8)),
        )

    graphdef, _ = one(jax.random.key(0))
    x = jnp.abs(jax.random.normal(jax.random.key(1), (T, B, 6)))
    keys = jax.random.split(jax.random.key(2), 3)

    def report(model):
        (found,) = activity.record(graphdef, model, x)
        costs = activity.energy(activity.synaptic_operations(graphdef, model, x))
        return found, activity.firing(found), costs

    models = [one(key)[1] for key in keys]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *models)
    got = jax.jit(jax.vmap(report))(stacked)
    want = jax.tree.map(lambda *a: jnp.stack(a), *map(jax.jit(report), models))
    assert np.asarray(got[0].spikes).any()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)


def never_spiking(family):
    if family == "surrogate":

        def build(rngs):
            silent = jsnn.Dense(4, 6, rngs=rngs), jsnn.LIF(threshold=1e3)
            return [*silent, jsnn.Dense(6, 3, rngs=rngs), jsnn.LI()]

        return jsnn.classifier(build)
    from jsnn.eventprop import latency, losses, network

    silent = network.dense(4, 6, mean=-1.0, std=0.1), network.lif(dt=1.0)
    net = network.chain(*silent, network.dense(6, 3), network.leaky(dt=1.0))
    code, read = latency.encoder(T=9.0, t_max=5.0), losses.max_voltage
    return jsnn.classifier(net, encode=code, loss=losses.ce_max_voltage, read_out=read)


@pytest.mark.parametrize(
    ("family", "name"), [("surrogate", "dense 1"), ("eventprop", "spiking layer 1")]
)
@pytest.mark.parametrize("seeds", [None, 2])
def test_fit_names_a_silent_layer_once(family, name, seeds):
    """In each family, for one seed or several; it looks at 64 samples and two epochs are evaluated."""
    inputs = np.random.default_rng(0).uniform(size=(88, 4)).astype(np.float32)
    data = jsnn.data.arrays(inputs, np.arange(88) % 3, num_test=80)
    task = never_spiking(family)
    trainer = jsnn.supervised(task, optax.sgd(0.1), batch_size=8, epochs=2)
    key = jax.random.key(0)
    if seeds:
        trainer, key = jsnn.over_seeds(trainer), jsnn.seed_keys(0, seeds)
    match = f"No neuron of `{name}` spikes on 64 held-out samples"
    with pytest.warns(UserWarning, match=match) as caught:
        jsnn.fit(trainer, data, key, progress=False)
    assert len(caught) == 1
