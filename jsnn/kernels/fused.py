r"""A neuron's whole time loop as one GPU kernel, forward and backward, in Pallas.

`lax.scan` starts at least one kernel a time step, and between steps the membranes travel to memory and back. Here each
thread owns one neuron, keeps its state in registers, and walks through all T steps: input and spikes are all that moves. The backward kernel walks
back, and differentiates the neuron's own `step` at the states that the forward pass kept, as reverse-mode differentiation
of the scan does. So it serves every neuron whose `step` is elementwise, and gives what the scan gives.

`unroll.neuron_block` takes it by itself where it helps: in a program on one CUDA device. Elsewhere, and for neurons that
mix their layer's outputs (`neurons.recurrent`), there is the scan.

Axes: K steps, B batch, N neurons, M = B N padded to a whole number of blocks.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array

from jsnn import precision

# Neurons of one kernel instance: one warp, so that even small layers spread over the whole device.
_BLOCK = 32
# Steps whose inputs are asked for at once: memory answers after some hundred cycles, long after a step is done.
_AHEAD = 8

Step = Callable[[Any, Any, Array], tuple[Any, Array]]


def pays() -> bool:
    """Whether programs of this process run on one CUDA device: a kernel is not partitioned over several."""
    return jax.default_backend() == "gpu" and jax.device_count() == 1


def fits(step: Step, params: Any, state: Any, x_t: Array) -> bool:
    """Whether a kernel can hold `step`.

    It sees arguments and constants alone: not the slope of a surrogate that a sweep has traced. Of custom rules of differentiation it
    takes those whose forward pass is made of plain operations. Every neuron has one output, and there are some; currents are floats.
    """
    if x_t.size == 0 or not jnp.issubdtype(x_t.dtype, jnp.floating):
        return False
    found = jax.make_jaxpr(_opened(step))(params, state, x_t)
    if found.out_avals[-1].shape != x_t.shape:
        return False
    both = found, jax.make_jaxpr(_there_and_back(step))(params, state, x_t)
    return not any(
        isinstance(constant, Tracer) for each in both for constant in each.consts
    ) and not any(name.startswith("custom_") for name in _operations(found.jaxpr))


def _opened(step: Step) -> Step:
    """Differentiated, though the derivative is thrown away: so custom rules, which kernels cannot call, are replaced by their forward passes."""
    return lambda *args: jax.vjp(step, *args)[0]


def _there_and_back(step: Step) -> Callable[..., Any]:
    """Both passes of a step: what a surrogate's backward pass alone holds on to shows only here."""

    def run(*args):
        out, pull = jax.vjp(step, *args)
        return pull(jax.tree.map(jnp.ones_like, out))

    return run


def _operations(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in equation.params.values():
            if hasattr(inner, "jaxpr"):
                yield from _operations(inner.jaxpr)


def run(
    step: Step,
    params: Any,
    state: Any,
    x: Array,
    *,
    num_steps: int | None = None,
    interpret: bool = False,
) -> tuple[Any, Array]:
    """`num_steps` steps of an elementwise neuron in one kernel.

    Args:
      step: `(params, state, current) -> (state, output)`, elementwise in all three.
      params: scalars or arrays that broadcast against `[B, ...]`.
      state: before the first step, `[B, ...]` each.
      x: currents `[K, B, ...]`; or `[B, ...]`, the same at each of `num_steps`.
      num_steps: K where `x` has no time axis.
      interpret: run the kernel's arithmetic on any backend, slowly: for tests.

    Returns:
      The state after the last step, and outputs `[K, B, ...]`.
    """
    shape = x.shape if num_steps is not None else x.shape[1:]
    steps = x.shape[0] if num_steps is None else num_steps
    x = x[None] if num_steps is not None else x
    size = x[0].size
    padded = -(-size // _BLOCK) * _BLOCK
    dtype = jnp.result_type(x, *jax.tree.leaves(state))

    def flat(a: Array) -> Array:
        """`[..., B, N] -> [..., M]`."""
        lead = a.shape[: a.ndim - len(shape)]
        a = a.reshape(*lead, size)
        return jnp.pad(a, ((0, 0),) * len(lead) + ((0, padded - size),))

    def wide(p: Any) -> Array:
        """A value for each neuron; differentiation sums over what was broadcast."""
        p = jnp.asarray(p, dtype)
        p = p.reshape((1,) * (len(shape) - p.ndim) + p.shape)
        return flat(jnp.broadcast_to(p, shape))

    found: Any = _loop(
        _Static(precision.keeping(step), steps, interpret),
        jax.tree.map(wide, params),
        jax.tree.map(flat, state),
        flat(x),
    )

    def unflat(a: Array) -> Array:
        return a[..., :size].reshape(*a.shape[:-1], *shape)

    return jax.tree.map(unflat, found)


class _Static:
    """What a kernel is made of besides arrays; equal only to itself."""

    def __init__(self, step: Step, num_steps: int, interpret: bool):
        self.step, self.num_steps, self.interpret = step, num_steps, interpret


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(static: _Static, params: Any, state: Any, x: Array) -> tuple[Any, Array]:
    """All arrays `[M]` or `[K, M]`; `x` `[1, M]` if it is constant."""
    return _where_it_runs(
        static,
        functools.partial(_forward_kernel, static, keep=False),
        functools.partial(_forward_scan, static, keep=False),
    )(params, state, x)[:2]


def _loop_fwd(static, params, state, x):
    new, y, before = _where_it_runs(
        static,
        functools.partial(_forward_kernel, static, keep=True),
        functools.partial(_forward_scan, static, keep=True),
    )(params, state, x)
    return (new, y), (params, before, x)


def _loop_bwd(static, residuals, cotangents):
    return _where_it_runs(
        static,
        functools.partial(_backward_kernel, static),
        functools.partial(_backward_scan, static),
    )(*residuals, *cotangents)


_loop.defvjp(_loop_fwd, _loop_bwd)


def _where_it_runs(static: _Static, kernel: Callable, scan: Callable) -> Callable:
    if static.interpret:
        return kernel
    return lambda *args: lax.platform_dependent(*args, cuda=kernel, default=scan)


def _read(refs: Any, *index: Any) -> Any:
    return jax.tree.map(lambda ref: ref[(*index, slice(None))], refs)


def _write(refs: Any, values: Any, *index: Any) -> None:
    def one(ref, value):
        ref[(*index, slice(None))] = value

    jax.tree.map(one, refs, values)


def _walk(num_steps: int, several: Callable[[Any, int, Any], Any], carry: Any) -> Any:
    """`several(first, count, carry)` over all steps, `_AHEAD` at a time; what is left over comes last."""
    whole = num_steps // _AHEAD
    if whole:
        carry = lax.fori_loop(
            0, whole, lambda c, carry: several(c * _AHEAD, _AHEAD, carry), carry
        )
    if num_steps % _AHEAD:
        carry = several(whole * _AHEAD, num_steps % _AHEAD, carry)
    return carry


def _call(static: _Static, kernel: Callable, args: tuple, out: Any) -> Any:
    """The kernel over blocks of the last axis of all arguments and results."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    def spec(a):
        lead = a.shape[:-1]
        return pl.BlockSpec((*lead, _BLOCK), lambda i: (*(0 for _ in lead), i))

    return pl.pallas_call(
        kernel,
        out_shape=out,
        grid=(args[-1].shape[-1] // _BLOCK,),
        in_specs=jax.tree.map(spec, args),
        out_specs=jax.tree.map(spec, out),
        interpret=static.interpret,
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
    )(*args)


def _forward_kernel(static, params, state, x, *, keep):
    """New state `[M]`, outputs `[K, M]`, and the states before each step `[K, M]` if `keep`."""
    constant = x.shape[0] == 1

    def kernel(params, state, x, new, y, before):
        values = _read(params)

        def several(first, count, state):
            inputs = [x[0 if constant else first + k, :] for k in range(count)]
            for k, x_t in enumerate(inputs):
                if keep:
                    _write(before, state, first + k)
                state, out = _opened(static.step)(values, state, x_t)
                y[first + k, :] = out
            return state

        _write(new, _walk(static.num_steps, several, _read(state)))

    def over_time(a):
        return jax.ShapeDtypeStruct((static.num_steps, a.shape[-1]), a.dtype)

    new = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    before = jax.tree.map(over_time, state) if keep else ()
    return _call(static, kernel, (params, state, x), (new, over_time(x), before))


def _forward_scan(static, params, state, x, *, keep):
    def one(state, x_t):
        new, y = static.step(params, state, x[0] if x_t is None else x_t)
        return new, (y, state if keep else ())

    each = None if x.shape[0] == 1 else x
    new, (y, before) = lax.scan(one, state, each, length=static.num_steps)
    return new, y, before


def _backward_step(static, params, carry, state, x_t, g):
    """Cotangents of one step from those after it; those of the parameters add up."""
    d_state, d_params = carry
    _, pull = jax.vjp(static.step, params, state, x_t)
    more, d_state, d_x = pull((d_state, g))
    return (d_state, jax.tree.map(jnp.add, d_params, more)), d_x


def _backward_kernel(static, params, before, x, g_new, g_y):
    constant, last = x.shape[0] == 1, static.num_steps - 1

    def kernel(params, before, x, g_new, g_y, d_params, d_state, d_x):
        values = _read(params)

        def several(first, count, carry):
            times = [last - first - k for k in range(count)]
            inputs = [
                (_read(before, t), x[0 if constant else t, :], g_y[t, :]) for t in times
            ]
            for t, each in zip(times, inputs, strict=True):
                *carry, total = carry
                carry, d = _backward_step(static, values, carry, *each)
                if constant:
                    total = total + d
                else:
                    d_x[t, :] = d
                carry = (*carry, total)
            return carry

        zero = jax.tree.map(jnp.zeros_like, values)
        total = jnp.zeros_like(x[0, :]) if constant else jnp.zeros((), x.dtype)
        found = _walk(static.num_steps, several, (_read(g_new), zero, total))
        _write(d_state, found[0])
        _write(d_params, found[1])
        if constant:
            d_x[0, :] = found[2]

    like = functools.partial(
        jax.tree.map, lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)
    )
    args = (params, before, x, g_new, g_y)
    d_params, d_state, d_x = _call(
        static, kernel, args, (like(params), like(g_new), like(x))
    )
    return d_params, d_state, d_x


def _backward_scan(static, params, before, x, g_new, g_y):
    def one(carry, each):
        state, x_t, g = each
        return _backward_step(
            static, params, carry, state, x[0] if x_t is None else x_t, g
        )

    zero = jax.tree.map(jnp.zeros_like, params)
    each = (before, None if x.shape[0] == 1 else x, g_y)
    (d_state, d_params), d_x = lax.scan(one, (g_new, zero), each, reverse=True)
    d_x = d_x.sum(0, keepdims=True) if x.shape[0] == 1 else d_x
    return d_params, d_state, d_x
