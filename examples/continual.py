"""Classes that come two at a time, on your own arrays: train with a memory of 200 samples, predict, save, load."""

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import jsnn

images, labels = load_digits(return_X_y=True)
data = jsnn.data.arrays(images.astype(np.float32) / 16, labels, num_test=360)
trainer = jsnn.continual.incremental(data, lambda rngs: [jsnn.Dense(64, 200, rngs=rngs), jsnn.LIF(beta=0.9)], tasks="5x2", method="er", buffer=200, optimizer=optax.adam(2e-3), batch_size=32, epochs_per_task=5)  # fmt: skip
fitted = jsnn.fit(trainer, data, jax.random.key(0))
prediction = fitted.predict(data.test.images)
again = jsnn.load(fitted.save("digits_continual"), trainer).predict(data.test.images)
print(f"test accuracy {100 * (prediction.label == data.test.labels).mean():.1f} %, the same once loaded: {(again.label == prediction.label).all()}")  # fmt: skip
