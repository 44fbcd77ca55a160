r"""From sound to features and spikes, inside the compiled step: a bank of filters, rectification, compression, adaptation, and a code.

    x = sound.features(samples, 80, rate=8000)            # [B, L] int16 to [T, B, bands]
    s = sound.spikes(x, code="delta", threshold=0.5)      # to [T, B, bands, 2]

A recording ends at its last sample that is not 0, so zeros that pad it have no effect. All numbers but sizes may be traced: a sweep varies them in
one program, and features have gradients in them. Those that say "or `[B]`" may differ from one recording to the next.

Axes: T steps, B batch, L samples, W samples of a window, F frequencies.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from jsnn import check, neurons
from jsnn.unroll import neuron_block, unroll

BANKS = ("mel", "gammatone")
CODES = ("delta", "lif")
_EAR_Q, _MIN_WIDTH = 9.26449, 24.7  # of the ear's bandwidth: f / Q + 24.7 Hz


def features(
    audio: Array | np.ndarray,
    num_steps: int,
    *,
    rate: int = 8000,
    dt_ms: Any = 10.0,
    start_ms: Any = 0.0,
    bank: str = "mel",
    bands: int = 32,
    low_hz: Any = 100.0,
    high_hz: Any = 3800.0,
    warp: Any = 1.0,
    window_ms: float | int = 32.0,
    floor: Any = 1e-3,
    level: bool = True,
) -> Float[Array, "T B bands"]:
    r"""How strong each band of frequencies is at each step, compressed: $\log(1 + E / \text{floor})$.

    | bank | E of a step |
    |---|---|
    | `"mel"` | mean power of the band in a Hann window around the middle of the step |
    | `"gammatone"` | mean over the step of the half-wave rectified output of a gammatone filter |

    >>> tone = np.sin(2 * np.pi * 1000 / 8000 * np.arange(4000))[None]  # 1 kHz, half a second
    >>> x = features(tone, 60, bands=8)
    >>> x.shape, int(x[10, 0].argmax()), float(x[55].max())  # silent after its end
    ((60, 1, 8), 3, 0.0)

    Args:
      audio: samples, int16 or floats in [-1, 1].
      num_steps: T.
      rate: samples a second.
      dt_ms: length of a step, or `[B]`. If None, the T steps are equally long parts of each recording, however long it is.
      start_ms: where the first step begins, or `[B]`; negative is before the recording.
      bank: `"mel"` or `"gammatone"`.
      bands: number of filters.
      low_hz: lower end of the lowest filter of mel, or the middle of the lowest gammatone.
      high_hz: upper end or middle of the highest.
      warp: factor on all frequencies of the bank, or `[B]`: 1.1 hears a voice as if its vocal tract were a tenth longer.
      window_ms: of mel.
      floor: E of which the logarithm begins to rise, in units of the loudness: power for mel, amplitude for gammatone.
      level: divides each recording by its root mean square first.

    Returns:
      `[T, B, bands]`, not negative, 0 in steps whose middle lies past the end.

    Raises:
      ValueError: an unknown bank, or a number out of range.

    References: O'Shaughnessy 1987 (mel); Slaney 1993, Apple Technical Report 35 (gammatone).
    """
    _check(audio, rate, dt_ms, bank, low_hz, high_hz, window_ms, floor)
    check.number("warp", warp, "(0, inf)")
    steps = check.whole("num_steps", num_steps, 1)
    bands = check.whole("bands", bands, 1)
    x, end = _signal(audio, level)
    start = _each(start_ms, x) / 1000 * rate
    dt = (end - start) / steps if dt_ms is None else _each(dt_ms, x) / 1000 * rate
    dt = jnp.maximum(dt, 1e-3)  # of a recording that ends before it starts
    middle = start[None] + (jnp.arange(steps, dtype=x.dtype)[:, None] + 0.5) * dt[None]
    low, high = (jnp.asarray(hz, x.dtype) for hz in (low_hz, high_hz))
    if bank == "mel":
        size = max(2, round(window_ms / 1000 * rate))
        power = spectrum(x, middle, size)
        weights = mel_bank(bands, low, high, _bins(size), rate, _each(warp, x))
        energy = jnp.einsum("tbf,bfn->tbn", power, weights)
    else:
        centres = _each(warp, x)[:, None] * _gammatone_centres(bands, low, high)[None]
        heard = filtered(x, gammatone_bank(centres, rate))
        edges = jnp.concatenate([middle - dt[None] / 2, middle[-1:] + dt[None] / 2])
        # What rings on past the end is not heard: there may be no room for it.
        sample = jnp.arange(x.shape[1], dtype=x.dtype)[None]
        inside = (sample < end[:, None])[:, None]
        energy = _means(jnp.where(inside, jnp.maximum(heard, 0), 0), edges)
    energy = jnp.log1p(energy / jnp.asarray(floor, x.dtype))
    return jnp.where((middle < end[None])[..., None], energy, 0)


def _check(audio, rate, dt_ms, bank, low_hz, high_hz, window_ms, floor):
    if audio.ndim != 2 or not audio.shape[1]:
        raise ValueError(
            f"`audio` must be recordings [B, L], got shape {audio.shape}: give a single one as `audio[None]`."
        )
    check.choice("bank", bank, BANKS)
    check.whole("rate", rate, 1)
    if dt_ms is not None:
        check.number("dt_ms", dt_ms, "(0, inf)")
    check.static("window_ms", window_ms, "(0, inf)")
    check.number("floor", floor, "(0, inf)")
    check.number("low_hz", low_hz, "[0, inf)")
    remedy = "Sound of this rate holds no higher ones."
    check.number("high_hz", high_hz, f"(0, {rate / 2}]", remedy=remedy)
    check.ordered("low_hz", low_hz, "high_hz", high_hz)


def _each(value: Any, x: Array) -> Array:
    """One number a recording, `[B]`."""
    return jnp.broadcast_to(jnp.asarray(value, x.dtype), x.shape[:1])


def _signal(audio: Any, level: bool) -> tuple[Array, Array]:
    """Samples `[B, L]` as floats, and how many of them each recording has, `[B]`."""
    x = jnp.asarray(audio)
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = x.astype(jnp.float32) / 32768
    count = jnp.arange(1, x.shape[1] + 1, dtype=jnp.int32)[None]
    end = jnp.max(jnp.where(x != 0, count, 0), 1).astype(x.dtype)
    if level:
        mean = jnp.sum(x**2, 1) / jnp.maximum(end, 1)
        x = x * jax.lax.rsqrt(jnp.where(mean > 0, mean, 1))[:, None]
    return x, end


def _bins(size: int) -> int:
    """Samples of the Fourier transform of a window: the next power of two."""
    return 2 ** math.ceil(math.log2(size))


def spectrum(
    x: Float[Array, "B L"], middle: Float[Array, "T B"], size: int
) -> Float[Array, "T B F"]:
    """Power of each frequency in Hann windows of `size` samples around `middle`, which need not be whole: it has a gradient.

    White noise of variance 1 has power 1. Outside the recording there is silence.
    """
    first = jnp.ceil(jax.lax.stop_gradient(middle) - size / 2)
    at = first[..., None] + jnp.arange(size, dtype=x.dtype)[None, None]
    u = (at - middle[..., None]) / size  # from -1/2 to 1/2
    window = 0.5 + 0.5 * jnp.cos(2 * jnp.pi * u)
    position = at.astype(jnp.int32)
    inside = (position >= 0) & (position < x.shape[1])
    which = jnp.arange(len(x), dtype=jnp.int32)[None, :, None]
    heard = jnp.where(inside, x[which, jnp.where(inside, position, 0)], 0)
    transformed = jnp.fft.rfft(heard * window, _bins(size))
    power = jnp.real(transformed) ** 2 + jnp.imag(transformed) ** 2
    return power / (0.375 * size)


def mel_bank(
    bands: int, low_hz: Any, high_hz: Any, size: int, rate: int, warp: Any = 1.0
) -> Float[Array, "*B F bands"]:
    """Weights of triangles that are equally wide in mel, $2595 \\log_{10}(1 + f / 700)$, for the power of `size // 2 + 1` frequencies.

    The weights of a band sum to 1. A side is never narrower than the distance of two frequencies, so that no band is empty.

    >>> mel_bank(4, 100.0, 4000.0, 256, 8000).shape
    (129, 4)

    Raises:
      ValueError: if a number is out of range.
    """
    bands, size, rate = (check.whole(n, x, 1) for n, x in (("bands", bands), ("size", size), ("rate", rate)))  # fmt: skip
    check.number("low_hz", low_hz, "[0, inf)")
    check.number("high_hz", high_hz, "(0, inf)")
    check.number("warp", warp, "(0, inf)")
    low, high = (2595 * jnp.log10(1 + jnp.asarray(f) / 700) for f in (low_hz, high_hz))
    share = jnp.arange(bands + 2, dtype=low.dtype) / (bands + 1)
    edges = 700 * (10 ** ((low + (high - low) * share) / 2595) - 1)
    edges = jnp.asarray(warp, low.dtype)[..., None] * edges.reshape((1,) * jnp.ndim(warp) + (-1,))  # fmt: skip
    narrowest = rate / size
    left, centre, right = edges[..., :-2], edges[..., 1:-1], edges[..., 2:]
    left = jnp.minimum(left, centre - narrowest)[..., None, :]
    right = jnp.maximum(right, centre + narrowest)[..., None, :]
    f = jnp.arange(size // 2 + 1, dtype=low.dtype) * (rate / size)
    f = f.reshape((1,) * jnp.ndim(warp) + (-1, 1))
    centre = centre[..., None, :]
    rising, falling = (f - left) / (centre - left), (right - f) / (right - centre)
    weights = jnp.maximum(jnp.minimum(rising, falling), 0)
    return weights / jnp.maximum(weights.sum(-2, keepdims=True), 1e-6)


def _gammatone_centres(bands: int, low: Array, high: Array) -> Array:
    """Frequencies `[bands]` at equal distances in units of the ear's bandwidth."""
    unit = _EAR_Q * _MIN_WIDTH
    share = jnp.arange(bands, dtype=low.dtype) / max(bands - 1, 1)
    return (low + unit) * ((high + unit) / (low + unit)) ** share - unit


def gammatone_bank(
    centres: Float[Array, "*B bands"], rate: int, *, taps: int | None = None
) -> Float[Array, "*B bands taps"]:
    r"""Impulse responses $t^3 e^{-2 \pi b t} \cos(2 \pi f t)$ with $b = 1.019 (f / 9.26449 + 24.7)$ Hz, of gain 1 at $f$.

    >>> gammatone_bank(jnp.array([500.0, 1000.0]), 8000).shape
    (2, 400)

    Args:
      centres: frequencies f in Hz.
      rate: samples a second.
      taps: samples of a response; 50 ms if None.
    """
    taps = round(0.05 * rate) if taps is None else check.whole("taps", taps, 1)
    f = jnp.asarray(centres)[..., None]
    t = jnp.arange(taps, dtype=f.dtype).reshape((1,) * (f.ndim - 1) + (-1,)) / rate
    width = 2 * jnp.pi * 1.019 * (f / _EAR_Q + _MIN_WIDTH)
    # (width t)^3 width rather than t^3 width^4: the latter is large and small at once in float32
    shape = (width * t) ** 3 * jnp.exp(-width * t) * jnp.cos(2 * jnp.pi * f * t)
    return shape * (width / (3 * rate))


def filtered(
    x: Float[Array, "B L"], responses: Float[Array, "B bands taps"]
) -> Float[Array, "B bands L"]:
    """The causal convolution of each recording with its responses."""
    size = _quick(x.shape[-1] + responses.shape[-1])
    product = jnp.fft.rfft(x, size)[:, None] * jnp.fft.rfft(responses, size)
    return jnp.fft.irfft(product, size)[..., : x.shape[-1]]


def _quick(length: int) -> int:
    """The least size from `length` on that has no factor above 5, of which Fourier transforms are fast."""
    size = length
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1


def _means(heard: Array, edges: Array) -> Array:
    """Means `[T, B, bands]` of `[B, bands, L]` between edges `[T + 1, B]` in samples, which need not be whole."""
    summed = jnp.pad(jnp.cumsum(heard, -1), ((0, 0), (0, 0), (1, 0)))
    last = heard.shape[-1]
    at = jnp.clip(edges, 0, last)
    whole = jnp.minimum(jnp.floor(jax.lax.stop_gradient(at)), last - 1)
    share = (at - whole)[..., None]
    index = whole.astype(jnp.int32)
    which = jnp.arange(len(heard), dtype=jnp.int32)[None]
    below, above = (summed[which, :, i] for i in (index, index + 1))
    total = below + share * (above - below)
    return (total[1:] - total[:-1]) / (edges[1:] - edges[:-1])[..., None]


def adapted(
    x: Float[Array, "T B bands"], decay: ArrayLike, strength: ArrayLike = 1.0
) -> Float[Array, "T B bands"]:
    r"""What is new: the running mean $m_t = \text{decay} \cdot m_{t-1} + (1 - \text{decay}) x_t$ of the steps before is taken away, $\max(0, x_t - \text{strength} \cdot m_{t-1})$.

    >>> adapted(jnp.ones((3, 1, 1)), 0.5).ravel().tolist()
    [1.0, 0.5, 0.25]

    Args:
      x: features.
      decay: in [0, 1); `neurons.decay(dt, tau)` makes one.
      strength: 0 changes nothing.
    """
    check.number("decay", decay, "[0, 1)")
    keep, strength = jnp.asarray(decay, x.dtype), jnp.asarray(strength, x.dtype)

    def step(mean: Array, x_t: Array) -> tuple[Array, Array]:
        return keep * mean + (1 - keep) * x_t, jnp.maximum(x_t - strength * mean, 0)

    return jax.lax.scan(step, jnp.zeros_like(x[0]), x)[1]


def spikes(
    x: Float[Array, "T B bands"],
    *,
    code: str = "delta",
    threshold: ArrayLike = 0.5,
    beta: ArrayLike = 0.8,
    spike_fn: Any = None,
) -> Float[Array, "T B *channels"]:
    r"""Features as spikes.

    | code | spikes | shape |
    |---|---|---|
    | `"delta"` | as an event camera does: one for each `threshold` by which the value has risen (channel 1) or fallen (channel 0) since the last; counts, no gradient | `[T, B, bands, 2]` |
    | `"lif"` | of a leaky neuron a band, with the value as its current, at most one a step; the gradient is `spike_fn`'s | `[T, B, bands]` |

    >>> rising = jnp.array([0.0, 0.6, 1.7, 1.7, 0.9])[:, None, None]
    >>> spikes(rising, threshold=0.5)[:, 0, 0].T.tolist()  # falling, rising
    [[0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 2.0, 0.0, 0.0]]

    Args:
      x: features, as `features` gives.
      code: `"delta"` or `"lif"`.
      threshold: in units of the features.
      beta: of LIF, the share of the membrane kept a step.
      spike_fn: of LIF, a surrogate or its name.

    Raises:
      ValueError: an unknown code, or a number out of range.
    """
    check.choice("code", code, CODES)
    check.time_axis("x", x)
    check.number("threshold", threshold, "(0, inf)")
    if code == "lif":
        neuron = neurons.lif(beta=beta, threshold=threshold, spike_fn=spike_fn)
        block = neuron_block(neuron, neuron.params)
        return unroll(block, neuron.init(x.shape[1:]), x)[1]
    theta = jnp.asarray(threshold, x.dtype)

    def step(last: Array, x_t: Array) -> tuple[Array, Array]:
        change = (x_t - last) / theta
        up, down = jnp.floor(jnp.maximum(change, 0)), jnp.floor(jnp.maximum(-change, 0))
        return last + (up - down) * theta, jnp.stack([down, up], -1)

    return jax.lax.scan(step, jnp.zeros_like(x[0]), jax.lax.stop_gradient(x))[1]


def input_times(
    counts: Float[Array, "T B *channels"], length: int, dt_ms: Any = 10.0
) -> tuple[Float[Array, "B L"], Int[Array, "B L"]]:
    """Spikes as the events that a solver without a grid takes, as `jsnn.data.events.input_times` gives them. A spike stands in the middle of its step.

    >>> times, neuron = input_times(jnp.array([[[0.0, 1.0]], [[2.0, 0.0]]]), 4, dt_ms=10.0)
    >>> times.tolist(), neuron.tolist()
    ([[5.0, 15.0, 15.0, inf]], [[1, 0, 0, -1]])

    Args:
      counts: spikes, as `spikes` gives.
      length: L, how many events of a recording are kept at most; later ones are left out.
      dt_ms: length of a step.

    Returns:
      Times in ms, in order, infinite past the last one, and the channel of each (counted over all axes behind B), -1 past the last.
    """
    length = check.whole("length", length, 1)
    steps, batch = counts.shape[:2]
    flat = jnp.moveaxis(counts.reshape(steps, batch, -1), 1, 0)
    channels = flat.shape[2]
    each = jnp.round(flat.reshape(batch, -1)).astype(jnp.int32)
    every = jnp.arange(steps * channels, dtype=jnp.int32)

    def one(times: Array) -> tuple[Array, Array]:
        at = jnp.repeat(every, times, total_repeat_length=length)
        there = jnp.arange(length, dtype=jnp.int32) < times.sum()
        middle = (at // channels + 0.5) * jnp.asarray(dt_ms, counts.dtype)
        return jnp.where(there, middle, jnp.inf), jnp.where(there, at % channels, -1)

    return jax.vmap(one)(each)


def perturb(
    key: Array, batch: int, *, warp: ArrayLike = 0.1, start_ms: ArrayLike = 20.0
) -> dict[str, Float[Array, " B"]]:
    """Draws for each recording of a batch: arguments of `features` that make each training epoch hear other voices, a little earlier or later.

    >>> sorted(perturb(jax.random.key(0), 4))
    ['start_ms', 'warp']

    Args:
      key: decides the draws.
      batch: B.
      warp: largest change of frequencies either way: 0.1 draws factors from 0.9 to 1.1.
      start_ms: largest shift either way.

    Raises:
      ValueError: if a number is negative, or `warp` is 1 or more.
    """
    check.key(key)
    batch = check.whole("batch", batch, 1)
    check.number("warp", warp, "[0, 1)")
    check.number("start_ms", start_ms, "[0, inf)")
    draws = jax.random.uniform(key, (2, batch), minval=-1.0, maxval=1.0)
    factor, shift = jnp.asarray(warp), jnp.asarray(start_ms)
    return {"warp": 1 + factor * draws[0], "start_ms": shift * draws[1]}
