"""Latent replay: where it may enter a network, what is kept there, and when."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import cil_cifar10
from experiments.cil_cifar10 import Config
from jsnn import continual, data, encoders, head, layers, neurons
from jsnn.continual import methods, samples, spiking, stream
from jsnn.continual import network as networks
from jsnn.continual.buffer import unpack
from jsnn.models.cil_cnn import cil_cnn
from jsnn.train import trainer as trainers

CLASSES = 4


IMAGES = {"cnn": (8, 8, 3), "small": (8, 8, 1), "mlp": (8, 8, 1)}


def latent_network(kind, **flags):
    """The script's network of this kind and the functions of latent replay, and images."""
    cfg = Config(
        None,  # pyright: ignore
        data="cifar10" if kind == "cnn" else "digits",
        network=kind,
        method="latent-er",
        timesteps=3,
        **({"hidden": (12, 9)} if kind == "mlp" else {"width": 4}),
        **flags,
    )
    build = cil_cifar10.make_build(cfg, IMAGES[kind])
    graphdef, model = layers.split(build(jax.random.key(0), CLASSES))
    network = spiking.make_network(
        graphdef,
        head.column_tree(graphdef, model),
        encode=encoders.constant(3),
        read_out="current",
        latent_layer=cfg.latent_layer,
    )
    images = 30 * jax.random.uniform(jax.random.key(1), (5, *IMAGES[kind]))
    return layers.merge(graphdef, model), network, model, images


@pytest.mark.parametrize(
    ("kind", "places"), [("cnn", (3, 7, 10)), ("small", (2, 4)), ("mlp", (2, 4))]
)
def test_latent_replay_keeps_what_the_upper_half_sees(kind, places):
    module, network, model, images = latent_network(kind)
    assert spiking.latent_places(module.layers[0]) == places
    for place in (None, *places):
        _, network, *_ = latent_network(kind, latent_layer=place)

        @jax.jit
        def replayed(model, images, network=network):
            struct = networks.latent_struct(network, model, images)
            kept = networks.latent(network, model, images)
            seen = unpack(kept, struct.shape, struct.dtype)
            key = jax.random.key(0)
            whole = network.apply(model, key, images, CLASSES, False)
            return whole.logits, network.upper(model, key, seen, CLASSES, False).logits

        whole, again = replayed(model, images)
        np.testing.assert_allclose(again, whole, rtol=1e-5, atol=1e-6)
        assert np.abs(whole - whole[:1]).max() > 1e-3
    for place in (-1, 0):
        with pytest.raises(
            ValueError, match=f"`--latent-layer` must be .* got {place}"
        ):
            latent_network(kind, latent_layer=place)
    wrong = {1, 2, 3, 4, 5, 8, 99} - {*places}
    for place in wrong:
        _, network, *_ = latent_network(kind, latent_layer=place)
        known = ", ".join(map(str, places))
        with pytest.raises(ValueError, match=rf"places at {known}, got {place}"):
            networks.latent(network, model, images)


def test_a_leaky_integrator_is_no_place_for_latent_replay():
    rngs = nnx.Rngs(0)
    quiet = layers.Neurons(neurons.leaky_integrator())
    features = layers.Sequence(layers.Dense(2, 2, rngs=rngs), quiet)
    assert spiking.latent_places(features) == ()


def test_a_wrong_place_is_refused_before_a_run_is_made(tmp_path):
    cfg = Config(
        tmp_path / "run", data="digits", method="latent-er", latent_layer=3, width=4
    )
    with pytest.raises(ValueError, match=r"`--latent-layer` .* places at 2, 4, got 3"):
        cil_cifar10.main(cfg)
    assert not (tmp_path / "run").exists()


def test_samples_are_kept_by_the_lower_half_as_it_stays():
    """After the first task, with an optimiser that would move it without a gradient: moments are kept, and weights decay."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 8)
    images = rng.integers(0, 255, (32, 4, 4, 3)).astype(np.uint8)

    def build(key, capacity):
        rngs = nnx.Rngs(key)
        shape = (4, 4, 3)
        return cil_cnn(shape, capacity, width=2, read_out="current", rngs=rngs)

    def network(graphdef, is_column, mode):
        return spiking.make_network(
            graphdef,
            is_column,
            mode,
            encode=encoders.constant(2),
            read_out="current",
            latent_layer=3,
        )

    learner = continual.learner(
        build,
        network,
        methods.get("latent-er"),
        optax.adamw(1e-2, weight_decay=0.1),
        image=images[0],
        batch_size=8,
        buffer_size=12,
        keep_optimizer=True,
    )
    tasks = stream.make_stream(labels, labels, [[0, 1], [2, 3]], num_classes=4)
    split = data.Split(images, labels)
    given = samples.put(tasks, split, split)
    trainer = continual.trainer(learner, tasks, epochs_per_task=1)
    begin, pool_of, end = (
        jax.jit(f, static_argnums=2) for f in (trainer.begin, trainer.pool, trainer.end)
    )
    run = jax.jit(trainer.run, static_argnums=3)
    state = trainers.start(trainer, jax.random.key(0))
    module = nnx.eval_shape(lambda: build(jax.random.key(0), 4))
    graphdef, shapes = layers.split(module)
    whole = network(graphdef, head.column_tree(graphdef, shapes), "train")
    below = []
    for number in range(2):
        state = begin(state._replace(phase_step=jnp.int32(0)), given, False)
        assert bool(state.own.memory.buffer.valid.any()) == (number > 0)
        pool = pool_of(state, given, False)
        state, _ = run(state, pool, jnp.int32(2), False)
        state = end(state, given, False)._replace(phase=jnp.int32(number + 1))
        model = state.own.model
        tree = jax.tree.map(np.asarray, nnx.to_pure_dict(model.params))
        features = tree["layers"][0]["layers"]
        below.append({k: v for k, v in features.items() if k < 3})
        above = features[3]["weight"]
        buffer = state.own.memory.buffer
        kept = np.asarray(buffer.identity)
        assert len(set(kept.tolist())) == 12
        wanted = networks.latent(whole, model, jnp.asarray(images[kept]))
        np.testing.assert_array_equal(buffer.images, wanted)
        if number == 0:
            before = above
    jax.tree.map(np.testing.assert_array_equal, *below)
    assert not np.array_equal(before, above)
    assert len(set((kept // 16).tolist())) == 2  # of both tasks
