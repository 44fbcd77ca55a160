"""Spiking neural networks as pure JAX functions: surrogate gradients, EventProp, STDP and class-incremental learning.

    data = jsnn.data.arrays(images, labels, num_test=200)
    net = jsnn.network(lambda rngs: [jsnn.Dense(64, 128, rngs=rngs), jsnn.LIF(beta=0.9), jsnn.Dense(128, 10, rngs=rngs), jsnn.LI()])
    fitted = jsnn.fit(jsnn.supervised(jsnn.classifier(net), optax.adam(2e-3), batch_size=64, epochs=5), data, jax.random.key(0))
    fitted.predict(new_images).label

The names below are the front door. Each is loaded when it is first used, so `import jsnn` takes no longer than JAX itself.
Rooms (`jsnn.neurons`, `jsnn.losses`, `jsnn.eventprop`, `jsnn.stdp`, `jsnn.continual`, ...) hold the rest.
"""

import importlib
import warnings
from typing import Any

# By concept: where each public name lives.
_HOME = {
    # networks
    "network": "layers",
    "Sequence": "layers",
    "Dense": "layers",
    "DelayedDense": "layers",
    "Delay": "layers",
    "Conv": "layers",
    "BatchNorm": "layers",
    "Dropout": "layers",
    "MaxPool": "layers",
    "AvgPool": "layers",
    "Neurons": "layers",
    "LIF": "layers",
    "IF": "layers",
    "CurrentLIF": "layers",
    "AdaptiveLIF": "layers",
    "LI": "layers",
    "Constant": "unroll",
    # encoders: from inputs to signals over time
    "constant": "encoders",
    "frames": "encoders",
    "rate": "encoders",
    "latency": "encoders",
    # read-outs: from the last layer to scores
    "mean_membrane": "readout",
    "max_membrane": "readout",
    "last_membrane": "readout",
    "spike_count": "readout",
    # training
    "classifier": "train.task",
    "supervised": "train.supervised",
    "Trainer": "train.trainer",
    "train_fn": "train.trainer",
    "over_seeds": "train.transform",
    "seed_keys": "train.transform",
    "keep_best": "train.transform",
    "fit": "train.loop",
    "Schedule": "train.schedule",
    "Run": "train.runs",
    "Fitted": "train.fitted",
    "Prediction": "train.trainer",
    "load": "train.fitted",
}
_ROOMS = (
    "activity",
    "augment",
    "compilation",
    "continual",
    "data",
    "delays",
    "encode",
    "eventprop",
    "exchange",
    "head",
    "layers",
    "losses",
    "memory",
    "metrics",
    "models",
    "neurons",
    "sound",
    "stdp",
    "surrogate",
    "train",
    "unroll",
    "zoo",
)
# Modules that have moved into a room: their old names work for one more release.
_MOVED = {
    **dict.fromkeys(("conv", "winograd", "norm", "fused"), "kernels"),
    **dict.fromkeys(("figures", "report"), "plot"),
    **dict.fromkeys(("runs", "checkpoint", "lock", "sweep", "search"), "train"),
}
__all__ = [*_HOME, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"jsnn.{_HOME[name]}"), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"jsnn.{name}")
    elif name in _MOVED:
        new = f"jsnn.{_MOVED[name]}.{name}"
        warnings.warn(f"jsnn.{name} is now {new}.", DeprecationWarning, stacklevel=2)
        return importlib.import_module(new)
    else:
        raise AttributeError(f"module 'jsnn' has no attribute {name!r}; see dir(jsnn).")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
