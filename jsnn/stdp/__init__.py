"""STDP and reward-modulated STDP: deep convolutional spiking networks that learn without gradients.

    network = jsnn.stdp.NETWORKS["mozafari2018"]
    fitted = jsnn.fit(jsnn.stdp.trainer(network), jsnn.data.load("mnist"), jax.random.key(0))
    fitted.predict(images).label

A network of one's own is a declaration, layers with a threshold and layers that decide:

    Network(
        blocks=(
            Block((Conv(30, 5, threshold=15, num_winners=5, radius=3, pad=2),)),
            Block((Conv(250, 3, threshold=10, num_winners=8, radius=1, pool=2, pad=1),)),
        ),
        decision=(Decision(200, 5, classes=10, pool=3, pad=2),),
        epochs=(2, 4, 100),
    )

What happens to it (axes: N images, T steps, C channels, F features, H rows, W columns; channels first, as in the reference):

| function | what |
|---|---|
| `forward.spike_times(network, images)` | filter, normalise locally, rank order: `[N, C, H, W]` bytes, the step of the first spike, T for silence |
| `unsupervised.run(spec, state, inputs, order, params, T)` | a pass of STDP: images one after another, their winners learn |
| `forward.responses(network, block, weights, inputs)` | what a trained block tells the next: computed once, and kept |
| `reward.run_window(spec, state, active, labels, order, params)` | a window of R-STDP; below it only the last step counts, so `active` is boolean |
| `forward.decide(specs, weights, active)` | classes, −1 for silence, and scores |

Each is a pure function to `jit` and `vmap`. Committees of decision layers (`reward.run_committee`), two layers that learn from
one decision (`joint.run_window`), and one-image steps (`unsupervised.step`, `reward.step`, `layer.compete`, `plasticity.learn`) are there
for other networks; `readout` for those that do not decide. `traces` holds pair- and trace-based STDP and a rule with homeostasis for
users who come from that side.
"""

from jsnn.stdp.encode import Frontend, mnist_frontend
from jsnn.stdp.layer import Conv, Decision, Verdict
from jsnn.stdp.networks import NETWORKS, Block, Modulated, Network
from jsnn.stdp.plasticity import Bounds, Doubling, Rates
from jsnn.stdp.reward import RewardParams, RewardState
from jsnn.stdp.training import initial_weights, trainer
from jsnn.stdp.unsupervised import STDPParams, STDPState
from jsnn.stdp.winners import Winners

__all__ = [
    "NETWORKS",
    "Block",
    "Bounds",
    "Conv",
    "Decision",
    "Doubling",
    "Frontend",
    "Modulated",
    "Network",
    "Rates",
    "RewardParams",
    "RewardState",
    "STDPParams",
    "STDPState",
    "Verdict",
    "Winners",
    "initial_weights",
    "mnist_frontend",
    "trainer",
]
