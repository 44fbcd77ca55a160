"""The wrapper types: an EventProp spike tensor in a surrogate layer, or the reverse, is an error and never a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import TypeCheckError

from jsnn import neurons
from jsnn.eventprop import Drive, OccupiedSpikes, TimedSpikes, synapse
from jsnn.eventprop.grid import lif
from jsnn.eventprop.losses import first_spike_times
from jsnn.eventprop.spikes import from_times

W = jnp.ones((3, 2))
SPIKES = {
    "timed": TimedSpikes(jnp.ones((4, 2, 3))),
    "occupied": OccupiedSpikes(jnp.ones((4, 2, 3)), jnp.arange(4), 8),
}
USES = {
    "product": lambda z: z @ W,
    "sum": jnp.sum,
    "scale": lambda z: 0.9 * jnp.ones(3) + z,
    "where": lambda z: jnp.where(z, 1.0, 0.0),
    "numpy": np.asarray,
    "flax": lambda z: nnx.Linear(3, 2, rngs=nnx.Rngs(0))(z),
    "jit": lambda z: jax.jit(lambda z: z @ W)(z),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("spikes", SPIKES.values(), ids=SPIKES)
def test_ordinary_operations_refuse_timed_spikes(spikes, use):
    with pytest.raises(TypeError, match="dL/dt"):
        use(spikes)


def test_a_surrogate_neuron_refuses_timed_spikes():
    neuron = neurons.lif()
    state = neuron.init((2, 3))
    with pytest.raises(Exception, match=r"TimedSpikes"):
        jax.lax.scan(
            lambda s, x: neuron.step(neuron.params, s, x), state, SPIKES["timed"]
        )


def test_eventprop_layers_refuse_plain_arrays():
    with pytest.raises(Exception, match="spikes"):
        synapse.synapse(synapse.dense, W, jnp.ones((4, 2, 3)))
    with pytest.raises(Exception, match="drive"):
        lif(neurons_params(), None, jnp.ones((4, 2, 3)), dt=1.0)
    with pytest.raises(TypeError, match="Drive"):
        Drive(W, W) + W
    apart = Drive(jnp.ones((4, 2, 3)), jnp.ones((4, 1, 3)))
    with pytest.raises((ValueError, TypeCheckError), match="drive"):
        lif(neurons_params(), None, apart, dt=1.0)


def neurons_params():
    from jsnn.eventprop import LIFParams

    return LIFParams()


def test_both_copies_of_a_drive_hold_the_same_numbers():
    drive = synapse.synapse(synapse.dense, W, SPIKES["timed"])
    np.testing.assert_array_equal(drive.mass, drive.time)
    total = drive + drive
    np.testing.assert_array_equal(total.mass, 2 * drive.mass)


def test_only_one_of_the_two_products_is_compiled():
    z = jnp.ones((4, 2, 3))

    def run(w, z):
        return lif(
            neurons_params(),
            None,
            synapse.synapse(synapse.dense, w, TimedSpikes(z)),
            dt=1.0,
        )[1].values

    text = jax.jit(run).lower(W, z).compile().as_text()
    assert text is not None
    assert text.count(" dot(") == 1


def test_times_on_the_grid():
    spikes = from_times(jnp.array([[0.4, 1.6, 9.0, jnp.inf]]), num_steps=4, dt=1.0)
    np.testing.assert_array_equal(
        np.argwhere(spikes.values), [[0, 0, 0], [2, 0, 1]]
    )  # 9 lies past the grid
    half = from_times(jnp.array([[1.6]]), num_steps=6, dt=0.5)
    assert int(half.values[:, 0, 0].argmax()) == 3
    with pytest.raises(ValueError, match="`substep`"):
        first_spike_times(spikes, dt=1.0, substep=True)
    with pytest.raises(ValueError, match="`num_steps`"):
        from_times(jnp.zeros((1, 1)), num_steps=0, dt=1.0)
