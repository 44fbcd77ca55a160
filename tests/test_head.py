"""The growing head: opening, growing, its optimiser and its checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jsnn import head, layers, neurons
from jsnn.models.cil_cnn import reference_neuron
from jsnn.train import checkpoint, runs


@functools.cache
def make(capacity, num_inputs=6):
    """A dense layer and a head, as static part and arrays."""

    def build(key):
        rngs = nnx.Rngs(key)
        features = layers.Dense(4, num_inputs, rngs=rngs)
        columns = head.GrowingHead(num_inputs, capacity, rngs=rngs)
        return layers.Sequence(features, columns)

    key = jax.random.key(3)
    graphdef, _ = layers.split(nnx.eval_shape(lambda: build(key)))
    return graphdef, jax.jit(lambda key: layers.split(build(key))[1])(key)


def columns(model):
    return model.params["layers"][1]


def logits(graphdef, model, x, num_open):
    y, _ = layers.apply(graphdef, model, x[None])
    return head.mask_closed(y[0], num_open)


X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
LABELS = jnp.array([0, 1, 0, 1, 1])


def test_columns_start_as_pytorchs_linear_does():
    _, model = make(200, num_inputs=400)
    for values in (columns(model)["weight"], columns(model)["bias"]):
        assert abs(values).max() <= 400**-0.5
        # Standard deviation of a uniform: its half-width over sqrt(3). 200 values at least: 5 % is two standard errors.
        np.testing.assert_allclose(values.std(), 400**-0.5 / 3**0.5, rtol=0.1)


def test_a_column_depends_on_its_number_alone():
    (_, small), (_, large) = make(3), make(8)
    for name in ("weight", "bias"):
        np.testing.assert_array_equal(
            columns(small)[name], columns(large)[name][..., :3]
        )
    assert len(np.unique(columns(large)["weight"])) == 6 * 8


def test_opening_classes_leaves_old_logits_to_the_bit_and_compiles_once():
    graphdef, model = make(8)
    traces = []

    @jax.jit
    def answer(model, num_open):
        traces.append(1)
        return logits(graphdef, model, X, num_open)

    before, after = answer(model, jnp.int32(2)), answer(model, jnp.int32(5))
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert np.isneginf(before[:, 2:]).all()
    assert np.isfinite(after[:, :5]).all()
    assert np.isneginf(after[:, 5:]).all()
    assert len(traces) == 1


@pytest.mark.parametrize("kind", ["rate", "membrane", "integrator", "current"])
def test_closed_columns_have_exactly_zero_gradient(kind):
    graphdef, model = make(8)
    neuron = head.read_out_neuron(kind, reference_neuron())
    assert (neuron is None) == (kind == "current")

    def loss(params):
        y, _ = layers.apply(
            graphdef, layers.Model(params, model.rest), 4 * jnp.stack([X, -X, X])
        )
        if neuron is not None:
            layer = layers.Neurons(neuron)
            _, y = layer(layer.init_state(y.shape[1:]), y)
        open_logits = head.mask_closed(head.read_out(y, kind), 2)
        return optax.softmax_cross_entropy_with_integer_labels(
            open_logits, LABELS
        ).mean()

    gradient = jax.grad(loss)(model.params)["layers"][1]
    for name in ("weight", "bias"):
        assert np.isfinite(gradient[name]).all()
        assert (gradient[name][..., 2:] == 0).all()
        assert (np.abs(gradient[name][..., :2]) > 0).any(), "the case is empty"


def test_read_outs():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 2, 3))
    v, trace = np.zeros((2, 3)), []
    for x_t in x:
        v = 0.9 * v + x_t
        trace.append(v)
    neuron = head.read_out_neuron("membrane", neurons.lif(), beta=0.9)
    assert neuron is not None
    layer = layers.Neurons(neuron)
    _, y = layer(layer.init_state((2, 3)), jnp.asarray(x, jnp.float32))
    # Sums of six float32 values of order one.
    wanted = {"membrane": np.mean(trace, 0), "integrator": trace[-1]}
    for kind, value in wanted.items():
        np.testing.assert_allclose(head.read_out(y, kind), value, rtol=1e-5, atol=1e-6)
    spikes = jnp.asarray(rng.random((6, 2, 3)) < 0.4, jnp.float32)
    np.testing.assert_allclose(head.read_out(spikes, "rate"), spikes.mean(0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"`kind`.*rate.*'spikes'"):
        head._check_read_out("spikes")


def make_step(graphdef, optimizer):
    @jax.jit
    def step(model, state, num_open, labels=LABELS):
        def loss(params):
            z = logits(graphdef, layers.Model(params, model.rest), X, num_open)
            return optax.softmax_cross_entropy_with_integer_labels(z, labels).mean()

        gradient = jax.grad(loss)(model.params)
        change, state = optimizer.update(
            gradient, state, model.params, num_open=num_open
        )
        params = optax.apply_updates(model.params, change)
        return layers.Model(params, model.rest), state

    return step


def test_growth_keeps_old_columns_and_moments_to_the_bit_and_equals_room_from_the_start():
    def fresh(capacity):
        graphdef, model = make(capacity)
        is_column = head.column_tree(graphdef, model)
        optimizer = head.growing(optax.adam(0.1), is_column)
        return graphdef, optimizer, (model, optimizer.init(model.params))

    graphdef, optimizer, small = fresh(2)
    _, _, large = fresh(head.room_for(3, 2))
    step = make_step(graphdef, optimizer)
    for _ in range(3):
        small, large = step(*small, 2), step(*large, 2)
    grown = head.grow(small, fresh(4)[2])
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, large)
    old, new = jax.tree.leaves(small), jax.tree.leaves(grown)
    assert sum(a.shape != b.shape for a, b in zip(old, new, strict=True)) == 7
    for a, b in zip(old, new, strict=True):
        np.testing.assert_array_equal(a, b[tuple(map(slice, a.shape))])
    np.testing.assert_array_equal(
        logits(graphdef, small[0], X, 2), logits(graphdef, grown[0], X, 2)[:, :2]
    )
    labels = jnp.array([0, 1, 2, 2, 3])
    for _ in range(3):
        grown, large = step(*grown, 4, labels), step(*large, 4, labels)
    # The products of the two had other shapes for three steps: float32 rounding, through Adam's division.
    for a, b in zip(jax.tree.leaves(grown), jax.tree.leaves(large), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_the_trap_of_width_one_is_real_and_avoided():
    """Optax's old moments of one column broadcast silently over four new ones; grown ones do not."""
    adam = optax.adam(0.1)
    old = {"w": jnp.ones((3, 1))}
    _, state = adam.update(old, adam.init(old))
    wide = {"w": jnp.zeros((3, 4))}
    silent, _ = adam.update(wide, state)
    assert silent["w"].shape == (3, 4)
    assert (silent["w"] != 0).all()  # columns that never saw a gradient move
    grown = head.grow(state, adam.init(wide))
    change, _ = adam.update(wide, grown)
    assert (change["w"][:, 1:] == 0).all()
    assert (change["w"][:, :1] != 0).all()


@pytest.mark.parametrize(
    ("count", "capacity", "room"), [(2, 2, 2), (3, 2, 4), (9, 1, 16), (0, 3, 3)]
)
def test_room_doubles(count, capacity, room):
    assert head.room_for(count, capacity) == room


def test_growing_into_something_else_is_refused():
    with pytest.raises(ValueError, match=r"`fresh` has float32\[2\].*float32\[3\]"):
        head.grow({"a": jnp.ones(3)}, {"a": jnp.ones(2)})
    with pytest.raises(ValueError, match="int32"):
        head.grow({"a": jnp.ones(3)}, {"a": jnp.ones(4, jnp.int32)})
    with pytest.raises(ValueError, match="`capacity` must be at least 1, got 0"):
        make(0)


def test_weight_decay_leaves_closed_columns_alone():
    graphdef, model = make(4)
    is_column = head.column_tree(graphdef, model)
    optimizer = head.growing(optax.adamw(0.1, weight_decay=0.5), is_column)
    step = make_step(graphdef, optimizer)
    after, _ = step(model, optimizer.init(model.params), 2)
    for name in ("weight", "bias"):
        a, b = columns(model)[name], columns(after)[name]
        np.testing.assert_array_equal(a[..., 2:], b[..., 2:])
        assert (a[..., :2] != b[..., :2]).all()


def test_a_late_column_starts_as_if_adam_had_begun_with_it():
    """Against `optax.adam` made when the column opens; plain Adam's first step of it is more than twice too long."""
    rng = np.random.default_rng(4)
    gradients = jnp.asarray(rng.normal(size=(60, 3, 2)), jnp.float32)
    gradients = gradients.at[:50, :, 1].set(0.0)  # closed until step 50
    mark, adam = {"w": True}, optax.adam(0.1, b1=0.5, b2=0.95)
    wrapped = head.growing(adam, mark, adam_decays=(0.5, 0.95))
    params = {"w": jnp.zeros((3, 2))}
    state, plain = wrapped.init(params), adam.init(params)
    late = adam.init({"w": jnp.zeros((3, 1))})
    for i, g in enumerate(gradients):
        change, state = wrapped.update({"w": g}, state, params, num_open=1 + (i >= 50))
        usual, plain = adam.update({"w": g}, plain)
        np.testing.assert_array_equal(change["w"][:, 0], usual["w"][:, 0])
        if i < 50:
            continue
        wanted, late = adam.update({"w": g[:, 1:]}, late)
        # Powers in float32, and Adam's epsilon of 1e-8 beside gradients of order one.
        np.testing.assert_allclose(change["w"][:, 1:], wanted["w"], rtol=1e-4)
        if i == 50:
            assert (abs(usual["w"][:, 1]) > 0.2).all()


def test_an_optimiser_for_no_head_is_refused():
    wrapped, params = head.growing(optax.sgd(0.1), {"w": True}), {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match="`num_open` must be given"):
        wrapped.update(params, wrapped.init(params), params)
    with pytest.raises(ValueError, match="`is_column`"):
        head.growing(optax.sgd(0.1), {"w": False}).init({"w": jnp.ones(3)})


def opened(folder, **options):
    return runs.Run(folder, experiment="head", config={}, **options)


@pytest.mark.parametrize(("stored", "tried"), [(2, (2, 4)), (8, (4, 8))])
def test_a_checkpoint_with_fewer_or_more_classes(tmp_path, stored, tried):
    def fresh(capacity):
        return make(capacity)[1]

    state = jax.tree.map(lambda x: x + 1, fresh(stored))
    opened(tmp_path).save(5, state)
    found = opened(tmp_path, resume=True).restore(*map(fresh, tried))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)
    if stored < 4:
        grown = head.grow(found, fresh(4))
        np.testing.assert_array_equal(
            columns(grown)["weight"][:, :2], columns(state)["weight"]
        )
        np.testing.assert_array_equal(
            columns(grown)["weight"][:, 2:], columns(fresh(4))["weight"][:, 2:]
        )


def test_a_checkpoint_of_no_capacity_that_was_tried_is_refused(tmp_path):
    opened(tmp_path).save(5, make(3)[1])
    resumed = opened(tmp_path, resume=True)
    with pytest.raises(checkpoint.CheckpointError, match="another model"):
        resumed.restore(make(2)[1], make(4)[1])
