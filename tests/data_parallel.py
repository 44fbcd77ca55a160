"""A program for `test_mesh.py`: trains a small network on several devices, perhaps of several processes, and on one; prints by how much they differ, and a device's share of the work.

python tests/data_parallel.py [coordinator num_processes process_id]
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jsnn
from jsnn import data, encoders, layers, mesh, neurons, surrogate
from jsnn.eventprop import network
from jsnn.eventprop.spikes import TimedSpikes
from jsnn.train import supervised
from jsnn.train.trainer import TrainState, start
from jsnn.unroll import Constant

BATCH, STEPS = 64, 50


def build(rngs: nnx.Rngs) -> layers.Sequence:
    """Dense layers with batch norm. Few neurons: where a membrane misses the threshold by a rounding error, a spike flips."""
    lif = neurons.lif(beta=0.9, spike_fn=surrogate.arctan())
    return layers.Sequence(
        layers.Dense(64, 48, bias=False, init="kaiming", rngs=rngs),
        layers.BatchNorm(48),
        layers.Neurons(lif),
        layers.Dense(48, 10, init="kaiming", rngs=rngs),
        layers.Neurons(neurons.leaky_integrator(beta=0.9)),
    )


def train(devices: jax.sharding.Mesh | None, train_set) -> tuple[TrainState, float]:
    """The state after `STEPS` steps and the last step's accuracy."""

    def shown(images, key):
        flat = encoders.unit_interval(images).reshape(images.shape[0], -1)
        return Constant(flat, 3)

    trainer = jsnn.supervised(
        jsnn.classifier(layers.network(build), encode=shown),
        optax.adam(5e-3),
        batch_size=BATCH,
        epochs=1,
        mesh=devices,
    )
    samples = supervised.Samples(*train_set)
    state = jax.jit(lambda key: start(trainer, key))(jax.random.key(0))
    state, samples = mesh.replicate((state, samples), devices)
    copied = mesh.replicated(devices)
    run = jax.jit(trainer.run, out_shardings=copied, static_argnums=3)
    accuracy, per_epoch = jnp.zeros(()), trainer.steps_per_epoch(samples)
    while (done := int(state.step)) < STEPS:
        length = min((done // per_epoch + 1) * per_epoch, STEPS) - done
        state, metric = run(state, samples, jnp.int32(length), None)
        accuracy = metric["accuracy"][length - 1]
    return mesh.gather(state, devices), float(accuracy)


Loss = Callable[[Any, jax.Array], jax.Array]


def surrogate_network() -> tuple[Loss, Any]:
    """A loss of parameters and signals `[T, B, H, W, C]`: convolutions and a dense layer, all steps at once."""
    rngs = nnx.Rngs(jax.random.key(0))
    spikes = layers.Neurons(neurons.lif())
    model = layers.Sequence(
        layers.Conv(1, 8, 5, rngs=rngs),
        spikes,
        layers.MaxPool(),
        layers.Conv(8, 8, 3, rngs=rngs),
        spikes,
        layers.Dense(8 * 5 * 5, 10, rngs=rngs),
    )
    graphdef, parameters = layers.split(model)

    def loss(params, x):
        whole = parameters._replace(params=params)
        return layers.apply(graphdef, whole, x, train=True)[0].var()

    return loss, parameters.params


def eventprop_network() -> tuple[Loss, Any]:
    """Likewise, with neurons that hear themselves."""
    net = network.chain(
        network.flatten(),
        network.dense(100, 30, mean=0.1, std=0.1),
        network.recurrent(30, mean=0.0, std=0.1, dt=1.0),
        network.dense(30, 10, mean=0.2, std=0.4),
        network.leaky(dt=1.0),
    )

    model = net.init(jax.random.key(0))

    def loss(params, x):
        out = net.apply(model._replace(params=params), TimedSpikes(x))
        return out.value.max(0).var()

    return loss, model.params


def operations(loss: Loss, params: Any, devices: jax.sharding.Mesh | None) -> float:
    """What XLA counts for one device of the gradient over three steps."""

    def cut(params, images):
        x = mesh.shard_batch(images, devices)
        with mesh.scope(devices):
            return loss(params, jnp.stack([x, 2 * x, 3 * x]))

    args = mesh.replicate((params, jnp.zeros((BATCH, 10, 10, 1))), devices)
    return jax.jit(jax.grad(cut)).lower(*args).compile().cost_analysis()["flops"]


def main() -> None:
    if len(sys.argv) > 1:
        coordinator, num_processes, process_id = sys.argv[1:]
        mesh.join(coordinator, int(num_processes), int(process_id))
    digits = data.load("digits").train
    devices = mesh.make(jax.device_count(), batch_size=BATCH)
    cut = jax.jit(lambda x: mesh.shard_batch(x, devices))(np.zeros((BATCH, 3)))
    each = {shard.data.shape for shard in cut.addressable_shards}
    assert each == {(BATCH // jax.device_count(), 3)}
    many, _ = train(devices, digits)
    one, accuracy = train(None, digits)
    difference = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), many.own.model, one.own.model
    )
    share = max(
        operations(*model, devices) / operations(*model, None)
        for model in (surrogate_network(), eventprop_network())
    )
    print(jax.device_count(), max(jax.tree.leaves(difference)), accuracy, share)


if __name__ == "__main__":
    main()
