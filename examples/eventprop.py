"""EventProp, exact gradients of spike times, on your own arrays: train, predict, save, load."""

import jax
import optax
from sklearn.datasets import load_digits

import jsnn

images, labels = load_digits(return_X_y=True)
data = jsnn.data.arrays(images / 16, labels, num_test=360)
task = jsnn.classifier(jsnn.eventprop.dense_network(64, 100, 10))
# Chosen on validation samples (num_validation=360): of step sizes from 0.002 to 0.05, the last was best.
trainer = jsnn.supervised(task, optax.adam(0.05), batch_size=32, epochs=20)
fitted = jsnn.fit(trainer, data, jax.random.key(0))
prediction = fitted.predict(data.test.images)
again = jsnn.load(fitted.save("digits_eventprop"), trainer).predict(data.test.images)
print(f"test accuracy {100 * (prediction.label == data.test.labels).mean():.1f} %, the same once loaded: {(again.label == prediction.label).all()}")  # fmt: skip
