"""Surrogate gradients on your own arrays: train, predict, save, load."""

import jax
import optax
from sklearn.datasets import load_digits

import jsnn

images, labels = load_digits(return_X_y=True)  # inputs [N, ...], labels [N]
data = jsnn.data.arrays(images / 16, labels, num_test=360)
task = jsnn.classifier(lambda rngs: [jsnn.Dense(64, 128, rngs=rngs), jsnn.LIF(beta=0.9), jsnn.Dense(128, 10, rngs=rngs), jsnn.LI()])  # fmt: skip
trainer = jsnn.supervised(task, optax.adam(2e-3), batch_size=64, epochs=5)
fitted = jsnn.fit(trainer, data, jax.random.key(0))
prediction = fitted.predict(data.test.images)  # label [N], scores [N, C]
again = jsnn.load(fitted.save("digits_surrogate"), trainer).predict(data.test.images)
print(f"test accuracy {100 * (prediction.label == data.test.labels).mean():.1f} %, the same once loaded: {(again.label == prediction.label).all()}")  # fmt: skip
