"""What a network is to whoever trains it: the same for layers with surrogate gradients and for chains with EventProp."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Array


class Model(NamedTuple):
    """A model as plain pytrees: `params` are trained, `rest` (running statistics, fixed decays) is carried along."""

    params: Any
    rest: Any


class Output(NamedTuple):
    """What a network makes of its input.

    Attributes:
      value: of the last layer: spikes or potentials `[T, B, C]`, or spike times.
      rest: what the batch leaves behind in the model.
      spikes: of the spiking layers, in order, where the network gives them.
    """

    value: Any
    rest: Any
    spikes: tuple[Any, ...] = ()


class Network(NamedTuple):
    """Pure functions of a network.

    Attributes:
      init: `key -> Model`.
      apply: `(model, x, *, key=None, train=False) -> Output`; `x` is what an encoder gives, time first.
      usual: which of its functions `jsnn.classifier` uses for this network where its caller names none, by name.
      graphdef: of a network of layers: its static part, for `jsnn.activity`.
    """

    init: Callable[[Array], Model]
    apply: Callable[..., Output]
    usual: Mapping[str, Any] | None = None
    graphdef: Any = None
