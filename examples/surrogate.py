"""Surrogate gradients on your own arrays: train, predict, save, load."""

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import jsnn

images, labels = load_digits(return_X_y=True)
data = jsnn.data.arrays(images.astype(np.float32) / 16, labels, num_test=360)
net = jsnn.network(lambda rngs: [jsnn.Dense(64, 128, rngs=rngs), jsnn.LIF(beta=0.9), jsnn.Dense(128, 10, rngs=rngs), jsnn.LI()])  # fmt: skip
trainer = jsnn.supervised(jsnn.classifier(net), optax.adam(2e-3), batch_size=64, epochs=5)  # fmt: skip
fitted = jsnn.fit(trainer, data, jax.random.key(0))
accuracy = (fitted.predict(data.test.images).label == data.test.labels).mean()
path = fitted.save("digits_surrogate")
again = jsnn.load(path, trainer).predict(data.test.images)
print(f"test accuracy {100 * accuracy:.1f} %, the same once loaded: {(again.label == fitted.predict(data.test.images).label).all()}")  # fmt: skip
