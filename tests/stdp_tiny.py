"""Networks small enough to compile quickly."""

import dataclasses

from jsnn.stdp import Block, Conv, Decision, Frontend, Modulated, Network, filters


def frontend() -> Frontend:
    """One ON and one OFF cell of 3 pixels, 6 steps."""
    dog = filters.difference_of_gaussians
    bank = filters.bank([dog(3, 1 / 3, 2 / 3), dog(3, 2 / 3, 1 / 3)])
    return Frontend(bank, padding=1, radius=3, num_steps=6)


_FIRST = Block((Conv(6, 5, threshold=6.0, num_winners=3, radius=2, pool=2),))

CHAIN = Network((_FIRST,), (Decision(20, 5, pool=2),), (1, 2), frontend)

# Two branches of different windows, a way around them, three voters.
WIDE = Network(
    (
        _FIRST,
        Block(
            (
                Conv(4, 3, threshold=5.0, num_winners=2, radius=1, pool=2, pad=1),
                Conv(4, 5, threshold=9.0, num_winners=2, radius=1, pool=2, pad=1),
            ),
            skip=True,
        ),
    ),
    (Decision(10, 2), Decision(20, 3), Decision(10, 5)),
    (1, 1, 2),
    frontend,
)

JOINT = Network(
    (
        dataclasses.replace(
            _FIRST,
            branches=(dataclasses.replace(_FIRST.branches[0], stabilise=False),),
        ),
    ),
    (Decision(20, 5, pool=2),),
    (1, 2),
    frontend,
    Modulated("joint"),
)

READ = dataclasses.replace(
    CHAIN,
    blocks=(dataclasses.replace(_FIRST, inhibited=True),),
    decision=(),
    epochs=(1,),
    readout=(2, 1),
)

TINY = {"chain": CHAIN, "wide": WIDE, "joint": JOINT, "read": READ}
