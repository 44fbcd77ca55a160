"""The methods by name, each a declaration: a further one is a further entry.

Weights are mammoth's best arguments for CIFAR-10 in five tasks where it has any (https://github.com/aimagelab/mammoth), in the
units of the terms here; they are defaults of `method.default_settings`. docs/continual.md lists them.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

from jsnn import check
from jsnn.continual import (
    classifiers,
    consolidate,
    correction,
    distil,
    replay,
)
from jsnn.continual.method import Method

Exemplars = Literal["uniform", "balanced"]


def naive() -> Method:
    """Cross entropy on the task at hand, over all open classes: what forgets."""
    return Method((replay.batch_cross_entropy(),))


def joint() -> Method:
    """All classes at once, in one run: the upper bound."""
    return naive()._replace(data="all")


def cumulative() -> Method:
    """Joint training anew at each task, on all samples so far: the upper bound of each row."""
    return naive()._replace(data="seen", fresh_start=True)


def er(exemplars: Exemplars = "uniform") -> Method:
    """Experience replay."""
    return Method(
        (replay.joint_cross_entropy(),),
        storage=replay.reservoir(exemplars),
        passes="together",
    )


def er_ace(exemplars: Exemplars = "uniform") -> Method:
    """Experience replay with asymmetric cross entropy."""
    parts = (replay.asymmetric_cross_entropy(),)
    return Method(parts, storage=replay.reservoir(exemplars))


def der(exemplars: Exemplars = "uniform") -> Method:
    """Dark experience replay."""
    parts = (replay.batch_cross_entropy(), replay.match_logits(alpha=0.3))
    return Method(parts, storage=replay.reservoir(exemplars))


# Slots -> alpha and beta of DER++: mammoth's best arguments.
DER_PLUS_PLUS = {200: (0.1, 0.5), 500: (0.2, 0.5), 5120: (0.1, 1.0)}


def der_plus_plus(
    exemplars: Exemplars = "uniform", *, buffer_size: int = 500
) -> Method:
    """Dark experience replay with labels, from a second draw; weights are those of the nearest size in `DER_PLUS_PLUS`, by ratio.

    Raises:
      ValueError: if `buffer_size` is less than 1.
    """
    buffer_size = check.whole("buffer_size", buffer_size, 1)
    nearest = min(DER_PLUS_PLUS, key=lambda size: abs(math.log(buffer_size / size)))
    alpha, beta = DER_PLUS_PLUS[nearest]
    parts = (
        replay.batch_cross_entropy(),
        replay.match_logits(alpha=alpha),
        replay.replayed_cross_entropy(beta=beta),
    )
    return Method(parts, storage=replay.reservoir(exemplars))


def lwf() -> Method:
    """Learning without forgetting."""
    return Method((replay.batch_cross_entropy(), distil.lwf()))


def ewc() -> Method:
    """Online elastic weight consolidation."""
    return Method((replay.batch_cross_entropy(), consolidate.ewc()))


def si() -> Method:
    """Synaptic intelligence."""
    return Method((replay.batch_cross_entropy(), consolidate.si()))


def icarl() -> Method:
    """Herded exemplars, distilled sigmoids, nearest mean of exemplars."""
    return Method(
        (distil.icarl_loss(), classifiers.nearest_exemplar_mean()),
        storage=replay.herding(),
        data="task+buffer",
    )


def bic() -> Method:
    """Distillation and a bias layer fitted on a tenth of the exemplars."""
    return Method(
        (correction.bias_correction(share=0.1),),
        storage=replay.herding(),
        data="task+buffer",
    )


def wa() -> Method:
    """Distillation and weight alignment."""
    return Method(
        (distil.balanced_distillation(), correction.align_weights()),
        storage=replay.herding(),
        data="task+buffer",
    )


def slda() -> Method:
    """Streaming discriminant analysis on the features of a network trained on the first task."""
    parts = (replay.batch_cross_entropy(), classifiers.slda())
    return Method(parts, freeze_after=1)


def ncm() -> Method:
    """Nearest class mean on the features of a network trained on the first task."""
    parts = (replay.batch_cross_entropy(), classifiers.nearest_class_mean())
    return Method(parts, freeze_after=1)


def gdumb() -> Method:
    """A greedily balanced buffer, and a network trained on it from scratch."""
    return Method(
        (replay.batch_cross_entropy(),),
        storage=replay.greedy(),
        data="buffer",
        fresh_start=True,
    )


def latent_er(exemplars: Exemplars = "uniform") -> Method:
    """Experience replay of hidden spikes, one bit each, stored when a task ends."""
    storage = replay.latent_reservoir(exemplars)
    return er(exemplars)._replace(storage=storage, latent=True)


METHODS: dict[str, Callable[..., Method]] = {
    "naive": naive,
    "joint": joint,
    "cumulative": cumulative,
    "er": er,
    "er-ace": er_ace,
    "der": der,
    "der++": der_plus_plus,
    "lwf": lwf,
    "ewc": ewc,
    "si": si,
    "icarl": icarl,
    "bic": bic,
    "wa": wa,
    "slda": slda,
    "ncm": ncm,
    "gdumb": gdumb,
    "latent-er": latent_er,
}


def get(name: str, **options: Any) -> Method:
    """The method of this name; `options` are its factory's.

    Raises:
      ValueError: if there is none.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"`name` must be one of {', '.join(METHODS)}, got {name!r}.")
    return METHODS[name](**options)
