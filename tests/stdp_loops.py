"""The rules of the STDP networks written out with dense waves and loops, in float64, from the published equations.

Waves are cumulative, `[T, C, H, W]`; potentials `[T, F, H, W]`; weights `[F, C, k, k]`.
"""

import numpy as np


def dense(times, num_steps):
    return np.stack([times <= t for t in range(num_steps)]).astype(np.float64)


def pad(wave, width):
    return np.pad(wave, ((0, 0), (0, 0), (width, width), (width, width)))


def pool(wave, size, stride, padding):
    x = np.pad(
        wave,
        ((0, 0), (0, 0), (padding, padding), (padding, padding)),
        constant_values=-np.inf,
    )
    h, w = ((n - size) // stride + 1 for n in x.shape[2:])
    out = np.empty((*x.shape[:2], h, w))
    for r in range(h):
        for c in range(w):
            window = x[
                :, :, r * stride : r * stride + size, c * stride : c * stride + size
            ]
            out[:, :, r, c] = window.max((2, 3))
    return np.maximum(out, 0)


def potentials(weights, wave):
    kernel = weights.shape[-1]
    h, w = (n - kernel + 1 for n in wave.shape[2:])
    out = np.empty((wave.shape[0], weights.shape[0], h, w))
    for r in range(h):
        for c in range(w):
            window = wave[:, :, r : r + kernel, c : c + kernel]
            out[:, :, r, c] = np.einsum("tcij,fcij->tf", window, weights)
    return out


def thresholded(potential, threshold):
    return np.where(potential > threshold, potential, 0)


def pointwise(potential):
    """Pointwise inhibition of thresholded potentials."""
    num_steps, _, height, width = potential.shape
    out = np.zeros_like(potential)
    for r in range(height):
        for c in range(width):
            best = potential[:, :, r, c].max(1)
            first = np.clip(num_steps - (best > 0).sum(), 0, num_steps - 1)
            if best[first] > 0:
                f = potential[first, :, r, c].argmax()
                out[:, f, r, c] = potential[:, f, r, c]
    return out


def winners(potential, spikes, k, radius):
    """Earliest first spike, then largest potential then, then lowest feature, row, column."""
    num_steps = len(potential)
    first = (num_steps - spikes.sum(0)).astype(int)
    found = []
    alive = first < num_steps
    value = np.take_along_axis(potential, np.minimum(first, num_steps - 1)[None], 0)[0]
    while len(found) < k and alive.any():
        f, r, c = min(
            np.argwhere(alive), key=lambda i: (first[tuple(i)], -value[tuple(i)], *i)
        )
        found.append((f, r, c))
        alive[f] = False
        if radius:
            alive[
                :,
                max(r - radius, 0) : r + radius + 1,
                max(c - radius, 0) : c + radius + 1,
            ] = False
    return found, first, value


def same_up_to_ties(got, expected, potential, tolerance=2e-6):
    """How many winners two programs agree on before the first that differs, whose potentials must be as good as equal there.

    Which of two such neurons wins is a matter of the order in which float32 sums add, and all later winners follow from it: they are
    not compared. `potential(n, index)` is the float64 potential of a neuron when winner n was found; sums of 6,250 weights in two
    orders differ by about 1e-6 of themselves.
    """
    for n, (a, b) in enumerate(zip(np.asarray(got), np.asarray(expected), strict=True)):
        if (a != b).any():
            assert min(*a, *b) >= 0, f"winner {n}: {a} and {b}, one of them silent"
            p, q = (float(potential(n, tuple(map(int, i)))) for i in (a, b))
            assert abs(p - q) <= tolerance * max(p, q), f"winner {n}: {p} and {q}"
            return n
    return len(got)


def learn(weights, wave, found, first, rates, low, high, stabilise):
    """STDP of the winners, whose spikes come first at `first[f, r, c]`; then all weights are clipped."""
    kernel, num_steps = weights.shape[-1], len(wave)
    new = weights.copy()
    for f, r, c in found:
        count_in = wave[:, :, r : r + kernel, c : c + kernel].sum(0)
        count_out = num_steps - first[f, r, c]
        step = np.where(count_in >= count_out, *rates)
        if stabilise:
            step = step * (weights[f] - low) * (high - weights[f])
        new[f] += step
    return new.clip(low, high)


def unsupervised_step(weights, times, num_steps, threshold, k, radius, rates, width):
    """One image through a layer with pointwise inhibition and stabiliser."""
    wave = pad(dense(times, num_steps), width)
    inhibited = pointwise(thresholded(potentials(weights, wave), threshold))
    found, first, value = winners(inhibited, inhibited > 0, k, radius)
    return learn(weights, wave, found, first, rates, 0, 1, True), found, first, value


def reward_step(weights, active, label, rates, width, low=0.2, high=0.8, classes=10):
    """One image of R-STDP; `rates` are reward's (ltp, ltd) and punishment's."""
    x = np.pad(active.astype(np.float64), ((0, 0), (width, width), (width, width)))
    potential = potentials(weights, x[None])[0]
    if potential.max() <= 0:
        return weights, -1, (-1, -1, -1)
    f, r, c = np.unravel_index(potential.argmax(), potential.shape)
    decision = f // (len(weights) // classes)
    kernel = weights.shape[-1]
    new = weights.copy()
    seen = x[:, r : r + kernel, c : c + kernel] > 0
    new[f] += np.where(seen, *rates[0 if decision == label else 1])
    return new.clip(low, high), decision, (f, r, c)
