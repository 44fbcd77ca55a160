"""What newcomers write is answered by one sentence that says what to write instead; what can be meant is taken."""

import os

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from flax import nnx

import jsnn
from jsnn import augment, encode, layers, losses, neurons
from jsnn.continual.metrics import average_accuracy, forgetting
from jsnn.data.dataset import from_arrays
from jsnn.eventprop import event_layers, events, grid
from jsnn.eventprop import losses as latency_losses
from jsnn.eventprop.flow import LIFParams
from jsnn.eventprop.grid_step import GridState
from jsnn.eventprop.spikes import Drive
from jsnn.kernels import conv
from jsnn.models.csnn import csnn
from jsnn.stdp import layer, waves
from jsnn.stdp.race import race
from jsnn.train import checkpoint, runs
from jsnn.unroll import Constant

B, H, T = 2, 8, 3
RNGS = nnx.Rngs(0)
GREY = jnp.full((B, H, H), 0.5)
IMAGES = GREY[..., None]
KEY = jax.random.key(0)


def spiking(**options):
    return layers.Neurons(neurons.lif(**options))


def maps():
    return layers.Sequence(layers.Conv(1, 2, rngs=RNGS), spiking())


def dense():
    return layers.Sequence(layers.Dense(H * H, 3, rngs=RNGS), spiking())


def run(net, x):
    return layers.apply(*layers.split(net), x)


def recurrent(size, **options):
    return layers.Neurons(neurons.lif(), recurrent=size, rngs=RNGS, **options)


NETWORK = jsnn.network(lambda rngs: [jsnn.Dense(4, 2, rngs=rngs), jsnn.LI()])
DATA = jsnn.data.arrays(np.zeros((8, 4), "f"), np.arange(8) % 2, num_test=2)


def task(**options):
    return jsnn.classifier(NETWORK, **options)


def trainer(**options):
    task_, optimizer = (
        options.get("task", task()),
        options.get("optimizer", optax.sgd(1)),
    )
    return jsnn.supervised(task_, optimizer, batch_size=2, epochs=1)


def fit(data=DATA, key=KEY, **options):
    return jsnn.fit(trainer(), data, key, progress=False, **options)


X = jnp.ones((T, B, 3))
WAVE = jnp.zeros((4, 6, 6), jnp.uint8)
DECISION = layer.Decision(4, 3, classes=2)
DRIVE = Drive(X, X)
SPIKES = event_layers.input_spikes(jnp.arange(5.0))


def on_grid(state=None, drive=DRIVE, **options):
    return grid.lif(LIFParams(), state, drive, dt=1.0, **options)


def exact(weights, spikes=SPIKES):
    return event_layers.feed_forward(
        LIFParams(), weights, spikes, t_end=5.0, max_spikes=2
    )


def spike_time_loss(times, labels):
    return latency_losses.relative_spike_time_mse(times, labels, separation=1.0)


def first_spike_loss(times, labels):
    return latency_losses.first_spike_cross_entropy(times, labels, tau_softmax=1.0)


MISTAKES = {
    "images without time": (lambda: run(maps(), IMAGES), r"`Constant\(images, T\)`"),
    "grey images": (lambda: run(maps(), Constant(GREY, T)), r"`images\[..., None\]`"),
    "grey images without time": (
        lambda: run(maps(), GREY),
        r"`images\[..., None\]`.*`Constant\(images, T\)`",
    ),
    "images for dense layers": (
        lambda: run(dense(), IMAGES),
        r"`Constant\(images, T\)`",
    ),
    "pooling grey frames": (
        lambda: run(layers.Sequence(layers.MaxPool()), jnp.ones((T, B, H, H))),
        r"`images\[..., None\]`",
    ),
    "channels first": (
        lambda: run(maps(), Constant(IMAGES.transpose(0, 3, 1, 2), T)),
        "Channels come last",
    ),
    "batch first": (lambda: run(dense(), jnp.ones((B, T, H))), "swapaxes"),
    "one image": (lambda: run(dense(), jnp.ones(H * H)), r"Constant\(images, T\)"),
    "a list": (lambda: run(dense(), [[1.0, 2.0]]), "jnp.asarray"),
    "T of 5.0": (lambda: Constant(IMAGES, 5.0), r"whole number, got 5.0"),  # pyright: ignore[reportArgumentType]
    "T of 0": (lambda: Constant(IMAGES, 0), "at least 1, got 0"),
    "T first": (lambda: Constant(5, IMAGES), r"`Constant\(images, T\)`"),  # pyright: ignore[reportArgumentType]
    "no steps": (lambda: run(dense(), jnp.ones((0, B, H * H))), "one time step"),
    "a neuron for a layer": (
        lambda: layers.Sequence(neurons.lif()),  # pyright: ignore[reportArgumentType]
        r"`layers\[0\]`.*`Neurons\(neuron\)`",
    ),
    "a neuron's factory for a layer": (
        lambda: layers.Sequence(neurons.lif),  # pyright: ignore[reportArgumentType]
        r"`Neurons\(neurons.lif\(\)\)`",
    ),
    "a list of layers": (
        lambda: layers.Sequence([spiking()]),  # pyright: ignore[reportArgumentType]
        r"`Sequence\(\*layers\)`",
    ),
    "a class for a layer": (
        lambda: layers.Sequence(layers.MaxPool),  # pyright: ignore[reportArgumentType]
        r"`MaxPool\(...\)`",
    ),
    "None for a layer": (lambda: layers.Sequence(None), "None, no layer"),  # pyright: ignore[reportArgumentType]
    "a layer for a neuron": (
        lambda: layers.Neurons(spiking()),  # pyright: ignore[reportArgumentType]
        "is a layer already",
    ),
    "a factory for a neuron": (
        lambda: layers.Neurons(neurons.lif),  # pyright: ignore[reportArgumentType]
        r"`neurons.lif\(\)`",
    ),
    "a name for a neuron": (
        lambda: layers.Neurons("lif"),  # pyright: ignore[reportArgumentType]
        r"`neurons.lif\(\)`, got 'lif'",
    ),
    "wrong number of betas": (
        lambda: run(spiking(beta=jnp.array([0.5, 0.9])), X),
        r"shape \(2,\), their layer \(3,\)",
    ),
    "betas in a list": (lambda: neurons.lif(beta=[0.5, 0.9]), r"`jnp.array"),  # pyright: ignore[reportArgumentType]
    "wrong recurrent size": (lambda: run(recurrent(4), X), "`recurrent=3`"),
    "recurrent=True": (lambda: recurrent(True), "number of neurons"),
    "recurrent without rngs": (
        lambda: layers.Neurons(neurons.lif(), recurrent=3),
        "`rngs` is needed",
    ),
    "learn=('tau',)": (
        lambda: layers.Neurons(neurons.lif(), learn=("tau",)),
        r"\['tau'\].*\['beta', 'threshold'\]",
    ),
    "rngs of 0": (lambda: layers.Dense(2, 2, rngs=0), r"`nnx.Rngs\(seed\)`, got 0"),  # pyright: ignore[reportArgumentType]
    "a key for rngs": (
        lambda: layers.Conv(2, 2, rngs=KEY),  # pyright: ignore[reportArgumentType]
        r"`nnx.Rngs\(seed\)`",
    ),
    "net(x)": (lambda: dense()(X), r"`state, y = net\(state, x\)`"),  # pyright: ignore[reportCallIssue]
    "layer(x)": (lambda: spiking()(X), r"net.init_state\(x.shape\[1:\]\)`"),  # pyright: ignore[reportCallIssue]
    "the input first": (lambda: dense()(X, []), r"`net\(state, x\)`|must be an array"),
    "a state of the whole sequence": (
        lambda: spiking()(spiking().init_state(X.shape), X),
        r"`init_state\(\(2, 3\)\)`",
    ),
    "the model unsplit": (
        lambda: layers.apply(layers.split(dense())[0], dense(), X),  # pyright: ignore[reportArgumentType]
        r"`graphdef, model = split\(net\)`",
    ),
    "a seed for a key": (
        lambda: encode.bernoulli(0, IMAGES, T),  # pyright: ignore[reportArgumentType]
        r"`jax.random.key\(0\)`, got 0",
    ),
    "integers for a key": (
        lambda: augment.crop_and_flip(jnp.arange(2), IMAGES),
        r"`jax.random.key\(0\)`",
    ),
    "grey images augmented": (
        lambda: augment.random_affine(KEY, GREY, degrees=10.0),
        r"`images\[..., None\]`",
    ),
    "labels as floats": (
        lambda: losses.ce_rate(X, jnp.zeros(B)),
        r"`labels.astype\(jnp.int32\)`",
    ),
    "one-hot labels": (lambda: losses.ce_rate(X, jnp.eye(3)[:B]), "argmax"),
    "labels from 1": (lambda: losses.ce_rate(X, jnp.array([1, 3])), "0 … 2, got 1 … 3"),
    "a label of -1": (lambda: losses.tet(X, jnp.array([-1, 0])), "0 … 2, got -1 … 0"),
    "sequences as a data set": (
        lambda: from_arrays(
            "mine", *[(np.zeros((4, T, H, H, 1), "f"), np.arange(4))] * 2
        ),
        r"frames.swapaxes\(0, 1\)",
    ),
    "channels first in a shape": (
        lambda: csnn((1, 28, 28), neuron=neurons.lif(), rngs=RNGS),
        "channels last",
    ),
    "grey images convolved": (
        lambda: conv.conv2d(GREY, jnp.ones((3, 3, 1, 1))),
        r"`x\[..., None\]`",
    ),
    "no such checkpoint": (lambda: checkpoint.restore("typo", {}), "no folder typo"),
    "no network to train": (
        lambda: jsnn.network([jsnn.LIF()]),
        r"`rngs -> layers`.*jsnn.network\(lambda",
    ),
    "a module for a network": (lambda: jsnn.classifier(dense()), "`rngs -> layers`"),
    "a name for a loss": (
        lambda: task(loss="cross_entropy"),
        "`loss` must be a function.*jsnn.losses",
    ),
    "a number for an encoder": (
        lambda: task(encode=8),
        r"`encode`.*got 8.*jsnn.constant\(8\)",
    ),
    "a name for a read-out": (
        lambda: task(read_out="mean"),
        "`read_out`.*jsnn.readout",
    ),
    "no function to augment": (
        lambda: task(augment=True),
        r"`augment`.*\(key, inputs\)",
    ),
    "a network for a task": (
        lambda: trainer(task=NETWORK),
        r"`jsnn.classifier\(network\)`",
    ),
    "a step size for an optimiser": (
        lambda: trainer(optimizer=1e-3),
        r"`optax.adam\(1e-3\)`",
    ),
    "a task for a trainer": (lambda: jsnn.fit(task(), DATA, KEY), "`jsnn.supervised"),
    "a task compiled": (lambda: jsnn.train_fn(task()), "`jsnn.supervised"),
    "seeds of a task": (lambda: jsnn.over_seeds(task()), "`jsnn.supervised"),
    "the best of a task": (lambda: jsnn.keep_best(task()), "`jsnn.supervised"),
    "bare arrays to fit": (
        lambda: fit(data=(np.zeros((8, 4)), np.arange(8) % 2)),
        r"`jsnn.data.arrays\(inputs, labels",
    ),
    "inputs alone to fit": (lambda: fit(data=np.zeros((8, 4))), "`jsnn.data.arrays"),
    "a seed for fit's key": (
        lambda: fit(key=0),  # pyright: ignore[reportArgumentType]
        r"`jax.random.key\(0\)`",
    ),
    "several keys to fit": (
        lambda: fit(key=jsnn.seed_keys(0, 2)),
        r"holds 2 keys.*`jsnn.over_seeds\(trainer\)`",
    ),
    "one key for several seeds": (
        lambda: jsnn.fit(jsnn.over_seeds(trainer()), DATA, KEY),
        r"one key a seed.*`jsnn.seed_keys",
    ),
    "a folder for a run": (lambda: fit(run="runs/mine"), r"`jsnn.Run\(folder"),
    "a number for a schedule": (lambda: fit(schedule=10), r"`jsnn.Schedule\(log_every"),
    "a network with too few outputs": (
        lambda: fit(
            data=jsnn.data.arrays(np.zeros((9, 4)), np.arange(9) % 3, num_test=3)
        ),
        "has 2 outputs.*3 classes",
    ),
    "no seeds": (lambda: jsnn.seed_keys(0, 0), "`num_seeds` must be at least 1"),
    "seeds of -1": (lambda: jsnn.seed_keys(-1, 2), "`seed` must lie between 0"),
    "no seeds at once": (
        lambda: jsnn.over_seeds(trainer(), at_once=0),
        "`at_once` must be at least 1",
    ),
    "patience of -1": (
        lambda: jsnn.keep_best(trainer(), patience=-1),
        "`patience` must not be negative",
    ),
    "waves of other channels": (
        lambda: waves.fire(jnp.ones((3, 2, 3, 3)), WAVE, 1.0, T),
        r"take 2 channels, `times` have shape \(4, 6, 6\)",
    ),
    "potentials of other channels": (
        lambda: waves.potentials(jnp.ones((3, 8, 3, 3)), WAVE, 1),
        "take 8 channels",
    ),
    "active neurons of other channels": (
        lambda: waves.fire_at_last(jnp.ones((3, 2, 3, 3)), WAVE < 1, 1.0),
        "take 2 channels, `active`",
    ),
    "a race of other channels": (
        lambda: race(
            jnp.ones((3, 2, 3, 3)), WAVE, 1.0, num_winners=1, radius=0, num_steps=T
        ),
        "take 2 channels, `times`",
    ),
    "a decision from other channels": (
        lambda: layer.decide(DECISION, jnp.ones((4, 2, 3, 3)), WAVE < 1),
        "take 2 channels, `active`",
    ),
    "decisions with a kernel too large": (
        lambda: layer.rate_all(DECISION, jnp.ones((4, 4, 7, 7)), WAVE[None] < 1),
        "7 x 7, larger than the maps of `active`, 6 x 6; pad",
    ),
    "kernels that are not square": (
        lambda: waves.fire(jnp.ones((3, 4, 2, 3)), WAVE, 1.0, T),
        r"\[F, C, k, k\], got shape \(3, 4, 2, 3\)",
    ),
    "weights of another layer": (
        lambda: layer.fire(
            layer.Conv(5, 3, 1.0, 1, 0), jnp.ones((3, 4, 3, 3)), WAVE, T
        ),
        "3 rows, their layer 5 features.*`init_weights`",
    ),
    "a threshold of NaN": (
        lambda: waves.fire(jnp.ones((3, 4, 3, 3)), WAVE, np.nan, T),
        "`threshold`.*nan",
    ),
    "waves of no steps": (
        lambda: waves.fire(jnp.ones((3, 4, 3, 3)), WAVE, 1.0, 0),
        "`num_steps` must lie between 1 and 255, got 0",
    ),
    "a state of other neurons": (
        lambda: on_grid(state=GridState(jnp.zeros((B, 4)), jnp.zeros((B, 4)))),
        r"`state.v` is of neurons of shape \(2, 4\), `drive` of \(2, 3\)",
    ),
    "a state that would broadcast": (
        lambda: on_grid(state=GridState(jnp.zeros((1, 3)), jnp.zeros((1, 3)))),
        "the state of the block before, or None",
    ),
    "spikes under way to others": (
        lambda: on_grid(
            state=GridState(DRIVE.mass[0], DRIVE.mass[0], jnp.zeros((1, B, 1))),
            weights=jnp.ones((3, 3)),
        ),
        r"`state.pending` is of neurons of shape \(2, 1\)",
    ),
    "recurrent weights that would broadcast": (
        lambda: on_grid(weights=jnp.ones((3, 1))),
        r"lead from its neurons, \(2, 3\), to themselves.*\(2, 1\)",
    ),
    "recurrent weights of other neurons": (
        lambda: on_grid(weights=jnp.ones((4, 4))),
        "`weights` of synapses within a layer",
    ),
    "mass and time of other shapes": (
        lambda: on_grid(drive=DRIVE._replace(time=DRIVE.time[..., :2])),
        "`drive.mass` and `drive.time` must hold the same",
    ),
    "fewer rows than inputs": (
        lambda: exact(jnp.ones((3, 2))),
        r"`spikes.neuron` must lie in \[-1, 2\].*`weights` has 3 rows",
    ),
    "weights in a row": (lambda: exact(jnp.ones(5)), r"\[inputs, neurons\].*\(5,\)"),
    "spikes without their neurons": (
        lambda: exact(jnp.ones((5, 2)), SPIKES._replace(neuron=SPIKES.neuron[:1])),
        "one neuron for each of the `spikes.times`",
    ),
    "jumps without their times": (
        lambda: events.solve(
            LIFParams(),
            events.Arrivals(jnp.zeros(3), jnp.zeros((4, 2))),
            t_end=5.0,
            max_spikes=2,
        ),
        "a row for each of the 3 `arrivals.times`",
    ),
    "an unknown kind of forgetting": (
        lambda: forgetting(np.eye(3), best="last"),  # pyright: ignore[reportArgumentType]
        "`best` must be one of 'ever', 'before', got 'last'",
    ),
    "counts of other tasks": (
        lambda: average_accuracy(np.eye(3), np.ones(2)),
        "`counts` must have one number a task, 3",
    ),
    "an unknown remainder": (
        lambda: jsnn.supervised(
            task(),
            optax.sgd(1),
            batch_size=2,
            epochs=1,
            remainder="pad",  # pyright: ignore[reportArgumentType]
        ),
        "`remainder` must be one of 'drop', 'keep'",
    ),
    "unknown initial weights": (
        lambda: layers.Dense(2, 2, init="zeros", rngs=RNGS),  # pyright: ignore[reportArgumentType]
        "`init` must be one of 'pytorch', 'kaiming'",
    ),
    **{
        f"a label of {label} to {loss.__name__}": (
            lambda loss=loss, label=label: loss(X, jnp.array([0, label])),
            rf"`labels` must lie in 0 … 2, got .*{label}",
        )
        for loss in (
            losses.ce_rate,
            losses.ce_count,
            losses.ce_mean_membrane,
            losses.ce_max_membrane,
            losses.mse_rate,
            losses.mse_count,
            losses.tet,
            latency_losses.ce_max_voltage,
        )
        for label in (-1, 3)
    },
    **{
        f"a label of {label} to {loss.__name__}": (
            lambda loss=loss, label=label: loss(X[0], jnp.array([0, label])),
            rf"`labels` must lie in 0 … 2, got .*{label}",
        )
        for loss in (
            latency_losses.cross_entropy,
            first_spike_loss,
            spike_time_loss,
        )
        for label in (-1, 3)
    },
    "an empty path": (lambda: runs.Run("", experiment="x", config={}), "`out`.*empty"),
    "a number for a path": (lambda: checkpoint.restore(3, {}), "`folder`.*got 3"),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_answered_by_what_to_write(what, monkeypatch):
    # What a user sees, who runs without the shape checks of the tests.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    call, words = MISTAKES[what]
    with pytest.raises(
        (ValueError, TypeError, checkpoint.CheckpointError), match=words
    ) as error:
        call()
    assert "\n" not in str(error.value)


def test_paths_may_be_text(tmp_path):
    folder = os.fspath(tmp_path / "here")
    checkpoint.save(folder, 3, {"w": jnp.arange(2.0)})
    assert checkpoint.steps(folder) == [3]
    found = checkpoint.restore(folder, {"w": jnp.zeros(2)})
    assert found is not None
    np.testing.assert_array_equal(found["w"], [0, 1])
    runs.Run(os.fspath(tmp_path / "run"), experiment="x", config={})
    assert (tmp_path / "run/config.json").exists()


def test_one_name_to_learn_and_keys_of_the_old_kind_are_taken():
    layer = layers.Neurons(neurons.lif(), learn="beta")
    assert layer.learn == ("beta",)
    old = encode.bernoulli(jax.random.PRNGKey(0), IMAGES, T)
    assert old.shape == (T, B, H, H, 1)


def test_a_key_of_the_old_kind_trains_as_one_of_the_new():
    old, new = fit(key=jax.random.PRNGKey(3)), fit(key=jax.random.key(3))
    for a, b in zip(
        jax.tree.leaves(old.model), jax.tree.leaves(new.model), strict=True
    ):
        np.testing.assert_array_equal(a, b)
