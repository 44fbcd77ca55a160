"""A program for `test_mesh.py`: trains a small network on several devices, perhaps of several processes, and on one; prints by how much they differ, and a device's share of the work.

python tests/data_parallel.py [coordinator num_processes process_id]
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jsnn import data, layers, losses, mesh, metrics, neurons, surrogate, training
from jsnn.unroll import Constant

BATCH, STEPS = 64, 50


def build(key: jax.Array) -> layers.Sequence:
    """Dense layers with batch norm. Few neurons: where a membrane misses the threshold by a rounding error, a spike flips."""
    rngs = nnx.Rngs(key)
    lif = neurons.lif(beta=0.9, spike_fn=surrogate.arctan())
    return layers.Sequence(
        layers.Dense(64, 48, bias=False, init="kaiming", rngs=rngs),
        layers.BatchNorm(48),
        layers.Neurons(lif),
        layers.Dense(48, 10, init="kaiming", rngs=rngs),
        layers.Neurons(neurons.leaky_integrator(beta=0.9)),
    )


def train(
    devices: jax.sharding.Mesh | None, train_set
) -> tuple[training.TrainState, float]:
    """The state after `STEPS` steps and the last step's accuracy."""
    graphdef, _ = layers.split(nnx.eval_shape(lambda: build(jax.random.key(0))))

    def forward(model, images, **options):
        flat = training.unit_interval(images).reshape(images.shape[0], -1)
        return layers.apply(graphdef, model, Constant(flat, 3), **options)

    def loss(model, key, images, labels):
        y, rest = forward(model, images, key=key, train=True)
        accuracy = (metrics.predict_by_membrane(y) == labels).mean()
        return losses.ce_mean_membrane(y, labels).mean(), (rest, accuracy)

    def predict(model, images, labels):
        y, _ = forward(model, images)
        return losses.ce_mean_membrane(y, labels), y.mean(0).argmax(-1), y.mean(0)

    num_train = len(train_set[1])
    trainer = training.trainer(
        training.Task(lambda key: layers.split(build(key))[1], loss, predict),
        optax.adam(5e-3),
        num_train=num_train,
        batch_size=BATCH,
        mesh=devices,
    )
    state = jax.jit(trainer.init)(jax.random.key(0))
    state, samples = mesh.replicate((state, train_set), devices)
    run = jax.jit(trainer.run, out_shardings=mesh.replicated(devices))
    accuracy = jnp.zeros(())
    while (done := int(state.step)) < STEPS:
        whole = (done // trainer.steps_per_epoch + 1) * trainer.steps_per_epoch
        length = min(whole, STEPS) - done
        state, metric = run(state, *samples, jnp.int32(length))
        accuracy = metric.accuracy[length - 1]
    return mesh.gather(state, devices), float(accuracy)


def operations(devices: jax.sharding.Mesh | None) -> float:
    """What XLA counts for one device: a gradient of convolutions and dense layers over 3 steps, all at once."""
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

    def loss(params, images):
        x = mesh.shard_batch(images, devices)
        with mesh.scope(devices):
            x = jnp.stack([x, 2 * x, 3 * x])
            whole = parameters._replace(params=params)
            return layers.apply(graphdef, whole, x, train=True)[0].var()

    images = jnp.zeros((BATCH, 10, 10, 1))
    args = mesh.replicate((parameters.params, images), devices)
    return jax.jit(jax.grad(loss)).lower(*args).compile().cost_analysis()["flops"]


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
        lambda a, b: float(jnp.abs(a - b).max()), many.model, one.model
    )
    share = operations(devices) / operations(None)
    print(jax.device_count(), max(jax.tree.leaves(difference)), accuracy, share)


if __name__ == "__main__":
    main()
