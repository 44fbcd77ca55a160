"""From images and sequences to currents and spikes over time.

Axes: T time, B batch, any further axes are pixels (or channels). Everything returned is float32 and time-major,
`[T, B, ...]`. Intensities lie in [0, 1]: 0 is black and never spikes. They are checked wherever their values are known,
so not under `jit`, `vmap` or `grad`. No encoder has a useful gradient with respect to its input, except `direct`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from jsnn import check


def check_intensities(images: Array | np.ndarray) -> None:
    """Raises `ValueError` unless `images` holds intensities in [0, 1].

    Integers are refused by type, so that 8-bit images are caught under `jit` too, where values are not known.
    """
    remedy = "Divide 8-bit images by 255."
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"`images` must be floating point in [0, 1], got {images.dtype}. {remedy}"
        )
    check.number("images", images, "[0, 1]", remedy=remedy)


def direct(
    images: Shaped[Array | np.ndarray, "B *pixels"], num_steps: int
) -> Float[Array, "T B *pixels"]:
    """Presents the same image as a constant current at every step.

    `unroll` takes a static input as it is and runs the layers before the first neuron once a sample, which is cheaper;
    this broadcast is for code that needs the time axis spelled out. Any values are allowed: currents may be
    normalised, and so negative.

    Raises:
      ValueError: if `num_steps` is below 1.
    """
    num_steps = check.whole("num_steps", num_steps, 1)
    return jnp.broadcast_to(
        jnp.asarray(images, jnp.float32), (num_steps, *images.shape)
    )


def _draw(
    key: PRNGKeyArray, probability: Float[Array, "B *pixels"], num_steps: int
) -> Float[Array, "T B *pixels"]:
    """Independent Bernoulli spikes; the uniform draw lies in [0, 1), so probability 0 never fires and 1 always does."""
    u = jax.random.uniform(key, (num_steps, *probability.shape), jnp.float32)
    return (u < probability[None]).astype(jnp.float32)


def bernoulli(
    key: PRNGKeyArray,
    images: Shaped[Array | np.ndarray, "B *pixels"],
    num_steps: int,
    *,
    max_probability: ArrayLike = 1.0,
) -> Float[Array, "T B *pixels"]:
    r"""Rate code: at every step, independently, a pixel of intensity $x$ spikes with probability $x \, p_{max}$.

    Args:
      key: consumed; pass a fresh one for every batch.
      images: intensities in [0, 1].
      num_steps: T.
      max_probability: $p_{max}$ in [0, 1], the probability of a white pixel's spike in one step.

    Raises:
      ValueError: if `num_steps` is below 1, or intensities or `max_probability` lie outside [0, 1].
    """
    check.key(key)
    num_steps = check.whole("num_steps", num_steps, 1)
    check_intensities(images)
    check.number("max_probability", max_probability, "[0, 1]")
    x = jnp.asarray(images, jnp.float32)
    return _draw(key, x * jnp.asarray(max_probability, jnp.float32), num_steps)


def poisson(
    key: PRNGKeyArray,
    images: Shaped[Array | np.ndarray, "B *pixels"],
    num_steps: int,
    *,
    dt: ArrayLike,
    max_rate: ArrayLike,
) -> Float[Array, "T B *pixels"]:
    r"""Poisson spike trains on a time grid: a pixel of intensity $x$ has the rate $r = x \, r_{max}$.

    The number of events of one step is Poisson distributed with mean $r\,dt$; a step spikes if there is at least one,
    $p = 1 - e^{-r\,dt}$. Several events in a step are one spike, so the spike rate is $p / dt < r$, and close to $r$
    only where $r\,dt$ is small. (The common $p = r\,dt$ exceeds 1 for coarse steps.)

    Args:
      key: consumed; pass a fresh one for every batch.
      images: intensities in [0, 1].
      num_steps: T.
      dt: length of a step, in seconds.
      max_rate: $r_{max}$, the rate of a white pixel, in Hz.

    Raises:
      ValueError: if `num_steps` is below 1, intensities lie outside [0, 1], or `dt` or `max_rate` is negative.
    """
    check.key(key)
    num_steps = check.whole("num_steps", num_steps, 1)
    check_intensities(images)
    check.number("dt", dt, "[0, inf)")
    check.number("max_rate", max_rate, "[0, inf)")
    x = jnp.asarray(images, jnp.float32)
    events = jnp.asarray(dt, jnp.float32) * jnp.asarray(max_rate, jnp.float32)
    return _draw(key, -jnp.expm1(-x * events), num_steps)


def latency_times(
    images: Shaped[Array | np.ndarray, "B *pixels"],
    num_steps: int,
    *,
    threshold: ArrayLike = 0.01,
    tau_steps: ArrayLike | None = None,
) -> Float[Array, "B *pixels"]:
    r"""When each pixel spikes, in steps from the start of the window; infinite for a pixel that never does.

    Brighter is earlier; a pixel at or below the threshold $\theta$ never spikes. For intensity $x > \theta$

    | `tau_steps` | time | |
    |---|---|---|
    | `None` | $t = T (1 - x) / (1 - \theta)$ | linear: every step has an equal share of the intensities |
    | $\tau$ | $t = \tau \ln \frac{x}{x - \theta}$ | when a leaky membrane charged by a constant current $x$ crosses $\theta$ |

    The logarithmic time has no bound: what comes after step T is lost (`latency` emits no spike), so choose $\tau$ and
    $\theta$ together with T. Other libraries stretch the linear code over T − 1 steps and round; here white alone
    does not get half a step.

    Args:
      images: intensities in [0, 1].
      num_steps: T.
      threshold: $\theta$ in [0, 1], below 1 for the linear code, above 0 for the logarithmic one.
      tau_steps: the membrane's time constant in steps, or `None` for the linear code.

    Raises:
      ValueError: if `num_steps` is below 1, intensities or `threshold` lie out of range, or `tau_steps` is negative.
    """
    num_steps = check.whole("num_steps", num_steps, 1)
    check_intensities(images)
    _check_threshold(threshold, linear=tau_steps is None)
    x = jnp.asarray(images, jnp.float32)
    theta = jnp.asarray(threshold, jnp.float32)
    bright = x > theta
    if tau_steps is None:
        # Rounding could push the darkest bright pixel to t = T, out of the window.
        last = np.nextafter(np.float32(num_steps), np.float32(0))
        t = jnp.minimum(num_steps * ((1.0 - x) / (1.0 - theta)), last)
    else:
        check.number("tau_steps", tau_steps, "[0, inf)")
        excess = jnp.where(bright, x - theta, 1.0)  # 1: no log of what is masked below
        t = jnp.asarray(tau_steps, jnp.float32) * jnp.log1p(theta / excess)
    return jnp.where(bright, t, jnp.inf)


def _check_threshold(threshold: ArrayLike, *, linear: bool) -> None:
    if linear:
        remedy = "The linear code needs it below 1."
        return check.number("threshold", threshold, "[0, 1)", remedy=remedy)
    remedy = "With `tau_steps` it must be above 0, or every pixel crosses it at once."
    return check.number("threshold", threshold, "(0, 1]", remedy=remedy)


def latency(
    images: Shaped[Array | np.ndarray, "B *pixels"],
    num_steps: int,
    *,
    threshold: ArrayLike = 0.01,
    tau_steps: ArrayLike | None = None,
) -> Float[Array, "T B *pixels"]:
    """At most one spike a pixel, the earlier the brighter: step floor(t) of the times t of `latency_times`.

    >>> latency(np.array([[1.0, 0.5, 0.1, 0.0]]), 4, threshold=0.0)[:, 0].T.tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]

    Raises:
      ValueError: as `latency_times`.
    """
    t = latency_times(images, num_steps, threshold=threshold, tau_steps=tau_steps)
    steps = jnp.arange(num_steps, dtype=jnp.float32)
    steps = steps.reshape(num_steps, *(1,) * t.ndim)
    return (jnp.floor(t)[None] == steps).astype(jnp.float32)


def delta(
    sequence: Shaped[Array | np.ndarray, "T B *pixels"],
    *,
    threshold: ArrayLike,
    off_spikes: bool = True,
) -> Float[Array, "T B *pixels"]:
    r"""Spikes where a sequence changes: $s_t = 1$ if $x_t - x_{t-1} > \theta$, and $-1$ if $x_t - x_{t-1} < -\theta$.

    Each step is compared with the one before (not, as an event camera does, with the value at the last spike), so slow
    drift below $\theta$ a step is never seen. The first step has nothing before it and is silent.

    Args:
      sequence: any values.
      threshold: $\theta \ge 0$, in the units of `sequence`.
      off_spikes: `True` marks decreases by −1 in the same channel; `False` leaves them out, and spikes are 0 or 1.

    Raises:
      ValueError: if there is no time step, or `threshold` is negative.
    """
    check.time_axis("sequence", sequence)
    check.number("threshold", threshold, "[0, inf)")
    x = jnp.asarray(sequence, jnp.float32)
    theta = jnp.asarray(threshold, jnp.float32)
    change = jnp.diff(x, axis=0, prepend=x[:1])
    on = (change > theta).astype(jnp.float32)
    return on - (change < -theta).astype(jnp.float32) if off_spikes else on
