"""A network of two layers on blobs in the plane: class-incremental learning in a second. Shared by the tests of continual methods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jsnn.continual import method as methods
from jsnn.continual.buffer import Batch
from jsnn.continual.method import Method, Scope
from jsnn.continual.network import Head, Network, Output
from jsnn.layers import Model

FEATURES, CAPACITY, SIZE, PER_CLASS = 16, 7, 10, 20


# Nothing here runs long: compiling it is what costs.
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def assert_same(got, expected):
    """To the bit on a CPU; other backends fuse, and so round, programs that differ in what is zero differently."""
    close = {} if jax.default_backend() == "cpu" else {"rtol": 1e-4, "atol": 1e-6}
    check = np.testing.assert_allclose if close else np.testing.assert_array_equal
    jax.tree.map(lambda a, b: check(a, b, **close), got, expected)


def mask(logits, num_open):
    return jnp.where(jnp.arange(logits.shape[1])[None] < num_open, logits, -jnp.inf)


def _apply(model, key, images, num_open, train):
    p = model.params
    x = jax.nn.relu(images @ p["w"] + p["b"][None])
    return Output(x, mask(x @ p["v"] + p["c"][None], num_open), model.rest)


def _lower(model, key, images, train):
    """Two steps of spikes, with the slope of a straight line."""
    p, steps = model.params, jnp.asarray([0.0, 0.5])[:, None, None]
    x = (images @ p["w"] + p["b"][None])[None] - steps
    slope = x - jax.lax.stop_gradient(x)
    return (x > 0).astype(jnp.float32) + slope, model.rest


def _upper(model, key, spikes, num_open, train):
    p, x = model.params, spikes.mean(0)
    return Output(x, mask(x @ p["v"] + p["c"][None], num_open), model.rest)


NETWORK = Network(
    _apply,
    lambda params: Head(params["v"], params["c"]),
    lambda params, head: {**params, "v": head.weight, "c": head.bias},
    lower=_lower,
    upper=_upper,
)


def model(key, capacity: int = CAPACITY) -> Model:
    a, b = jax.random.split(key)
    params = {
        "w": jax.random.normal(a, (2, FEATURES)),
        "b": jnp.zeros(FEATURES),
        "v": 0.2 * jax.random.normal(b, (FEATURES, capacity)),
        "c": jnp.zeros(capacity),
    }
    return Model(params, {"steps": jnp.zeros(())})


def blobs(labels: np.ndarray, seed: int = 0, spread: float = 0.25) -> np.ndarray:
    """Points around six places on a circle."""
    angle = 2 * np.pi * labels / 6
    centre = 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    noise = np.random.default_rng(seed).normal(size=centre.shape)
    return (centre + spread * noise).astype(np.float32)


def task(*classes: int, seed: int = 0, per_class: int = PER_CLASS) -> Batch:
    labels = np.tile(np.asarray(classes, np.int32), per_class)
    return Batch(
        jnp.asarray(blobs(labels, seed)),
        jnp.asarray(labels),
        jnp.ones(len(labels), bool),
    )


def scope(number: int, num_old: int, num_open: int) -> Scope:
    return Scope(jnp.int32(number), jnp.int32(num_old), jnp.int32(num_open))


def together(*batches: Batch) -> Batch:
    return jax.tree.map(lambda *x: jnp.concatenate(x), *batches)


def compiled(function, method: Method, **options):
    """`function` with its method filled in, jitted once: methods have no hash."""
    place = (function.__name__, id(method), *options.values())
    if place not in _COMPILED:
        filled = functools.partial(function, method, **options)
        _COMPILED[place] = method, jit(filled)
    return _COMPILED[place][1]


_COMPILED = {}  # keeps the method too, so that its id stays its own


def learn(method: Method, memory, model, settings, key, where, data, *, num_steps):
    """One task: plain gradient steps on random batches of the samples that `method` trains on."""
    keys = jax.random.split(key, 4)
    started = model
    memory, valid = methods.begin_task(
        NETWORK, method, memory, model, settings, keys[0], where, data
    )
    pool = data._replace(valid=valid)
    stored = Batch(memory.buffer.images, memory.buffer.labels, memory.buffer.valid)
    if method.data == "task+buffer":
        pool = together(pool, stored)
    if method.data == "buffer":
        pool = stored

    def step(carry, key):
        memory, model = carry
        key_batch, key_loss, key_after = jax.random.split(key, 3)
        noise = jax.random.uniform(key_batch, pool.valid.shape)
        chosen = jnp.argsort(jnp.where(pool.valid, noise, 2.0))[:SIZE]
        batch = jax.tree.map(lambda x: x[chosen], pool)
        update = methods.gradients(
            NETWORK, method, memory, model, settings, key_loss, where, batch
        )
        after = jax.tree.map(lambda p, g: p - 0.1 * g, model.params, update.gradient)
        memory = methods.after_step(
            method, memory, key_after, where, update, model.params, after
        )
        return (memory, Model(after, update.rest)), update.loss

    (memory, model), losses = jax.lax.scan(
        step, (memory, model), jax.random.split(keys[1], num_steps)
    )
    if method.freeze_after is not None:
        frozen = where.task >= method.freeze_after
        model = jax.tree.map(lambda a, b: jnp.where(frozen, a, b), started, model)
    memory, model = methods.end_task(
        NETWORK, method, memory, model, settings, keys[2], where, data
    )
    return memory, model, losses


def run(
    method: Method,
    key,
    *,
    settings=None,
    buffer_size: int = 12,
    num_steps: int = 60,
    tasks=((0, 1), (2, 3), (4, 5)),
):
    """A whole stream; returns memory and model after each task."""
    settings = methods.default_settings(method) if settings is None else settings
    key_model, *keys = jax.random.split(key, len(tasks) + 1)
    start = model(key_model)
    memory = methods.init_memory(
        NETWORK, method, start, jnp.zeros(2), buffer_size=buffer_size
    )
    history, current, num_old, seen = [], start, 0, []
    for number, classes in enumerate(tasks):
        seen.append(task(*classes, seed=number))
        num_open = max(num_old, max(classes) + 1)
        data = seen[-1]
        if method.data in ("seen", "all"):
            unseen = [
                later._replace(valid=~later.valid) for later in [data] * len(tasks)
            ]
            data = together(*[*seen, *unseen][: len(tasks)])
        if method.fresh_start:
            current = start
        memory, current, losses = compiled(learn, method, num_steps=num_steps)(
            memory,
            current,
            settings,
            keys[number],
            scope(number, num_old, num_open),
            data,
        )
        assert np.isfinite(losses).all()
        history.append((memory, current))
        num_old = num_open
    return history


def scores(method: Method, memory, model, settings, num_open, images):
    where = Scope(jnp.int32(0), num_open, num_open)
    return methods.scores(NETWORK, method, memory.slots, model, settings, where, images)


def accuracy(method: Method, memory, model, num_open: int, classes) -> float:
    test = task(*classes, seed=99)
    found = compiled(scores, method)(
        memory,
        model,
        methods.default_settings(method),
        jnp.int32(num_open),
        test.images,
    )
    return float((found.argmax(1) == test.labels).mean())
