"""STDP and reward-modulated STDP: deep convolutional spiking networks that learn without gradients, as pure functions.

How the pieces compose (axes: N images, T steps, C channels, F features, H rows, W columns; channels first, as in the reference):

    images [N, H, W] bytes
      encode.spike_times(images, encode.mnist_frontend())    filter, normalise locally, rank order
    times [N, C, H, W] uint8: step of the first spike, T for silence
      layer.pooled(spec, times, T)                           input of a layer; padding happens inside
      train.run(spec, state, inputs, order, params, T)       unsupervised pass: (state, winners); a scan over images
      layer.respond(spec, weights, inputs, T, above=next)    what the trained layer tells the next: compute once, keep
    ... and below a decision layer only the last step counts:
      waves.fired(times, T)                                  active [N, C, H, W] bool
      layer.respond_at_last(spec, weights, active, above=next)
      reward.run(spec, state, active, labels, order, params) R-STDP pass: (state, verdicts)
      layer.decide_all(spec, weights, active)                verdicts: class or -1, winner, potential

A network is a tuple of layers, `Conv` with a threshold, `Decision` without:

    mozafari2018 = (
        Conv(30, 5, threshold=15, num_winners=5, radius=3, pad=2),
        Conv(250, 3, threshold=10, num_winners=8, radius=1, pool=2, pad=1),
        Decision(200, 5, classes=10, pool=3, pad=2),
    )

Everything that a sweep may vary (thresholds, rates, bounds, schedules) is in `STDPParams` and `RewardParams`, and every pass
is a pure function to `jit` and `vmap` over states and parameters.
Committees of decision layers (`reward.run_committee`), two layers that learn from one decision (`joint.run`), and one-image
steps (`train.step`, `reward.step`, `layer.compete`, `plasticity.learn`) are there for other networks.
`traces` holds pair- and trace-based STDP and a rule with homeostasis for users who come from that side.
"""

from jsnn.stdp.encode import Frontend, spike_times
from jsnn.stdp.layer import Conv, Decision, Verdict, init_weights
from jsnn.stdp.plasticity import Bounds, Doubling, Rates
from jsnn.stdp.reward import RewardParams, RewardState
from jsnn.stdp.train import STDPParams, STDPState
from jsnn.stdp.winners import Winners

__all__ = [
    "Bounds",
    "Conv",
    "Decision",
    "Doubling",
    "Frontend",
    "Rates",
    "RewardParams",
    "RewardState",
    "STDPParams",
    "STDPState",
    "Verdict",
    "Winners",
    "init_weights",
    "spike_times",
]
