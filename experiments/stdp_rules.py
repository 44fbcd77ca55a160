"""Flags of `experiments.stdp_mnist` for the numbers of its networks: what they are by declaration unless given, and what a sweep may vary."""

import dataclasses
from typing import Any

from experiments import flags
from jsnn import sweep
from jsnn.models import stdp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Thresholds and rates; None: the network's own."""

    threshold_1: float | None = None
    """Potential that a neuron of the first layer must exceed to fire; the network's own if omitted, and so for the others."""
    threshold_2: float | None = None
    """The same of the second layer."""
    threshold_3: float | None = None
    """The same of the third layer, or of the layers side by side there."""
    threshold_4: float | None = None
    """The same of the fourth layer."""
    ltp: float | None = None
    """STDP's first rate, before it doubles, of synapses whose input came in time; 0.004 if omitted."""
    ltd: float | None = None
    """The same of other synapses, which doubles with it; -0.003 if omitted."""
    reward_ltp: float | None = None
    """The decision's rate, before it adapts, of synapses whose input came when it was right; 0.004 if omitted."""
    reward_ltd: float | None = None
    """The same of other synapses; -0.003 if omitted."""
    punish_ltp: float | None = None
    """The decision's rate, before it adapts, of synapses whose input came when it was wrong; -0.004 if omitted."""
    punish_ltd: float | None = None
    """The same of other synapses; 0.0005 if omitted."""

    def check_rules(self, network: stdp.Network, model: str) -> None:
        """Raises a `ValueError` for a flag of a layer that the network does not have."""
        have = len(network.blocks)
        refused = dict.fromkeys(THRESHOLDS[have:], f"{have} layers with a threshold")
        if not network.decision:
            refused |= dict.fromkeys(REWARDED, "no layer that learns by reward")
        for name, has in refused.items():
            if (value := getattr(self, name)) is not None:
                raise ValueError(
                    f"`{flags.name(name)}` must be left out: {model} has {has}, got {value}."
                )

    def ruled(self, network: stdp.Network) -> stdp.Network:
        """The network with the numbers given, which may be traced."""
        blocks = tuple(
            _with_threshold(block, getattr(self, name))
            for block, name in zip(network.blocks, THRESHOLDS, strict=False)
        )
        return dataclasses.replace(
            network,
            blocks=blocks,
            rates=_given(network.rates, self.ltp, self.ltd),
            reward=_given(network.reward, self.reward_ltp, self.reward_ltd),
            punish=_given(network.punish, self.punish_ltp, self.punish_ltd),
        )


SWEPT = tuple(field.name for field in dataclasses.fields(Rules))
THRESHOLDS = tuple(name for name in SWEPT if name.startswith("threshold"))
REWARDED = tuple(name for name in SWEPT if name.startswith(("reward", "punish")))


def _with_threshold(block: stdp.Block, threshold: Any) -> stdp.Block:
    if threshold is None:
        return block
    new = {"threshold": threshold}
    branches = tuple(sweep.with_values(spec, new) for spec in block.branches)
    return dataclasses.replace(block, branches=branches)


def _given(pair: stdp.Pair, *given: Any) -> stdp.Pair:
    first, second = (
        own if new is None else new for own, new in zip(pair, given, strict=True)
    )
    return first, second
