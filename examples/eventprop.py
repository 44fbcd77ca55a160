"""EventProp, exact gradients of spike times, on your own arrays: train, predict, save, load."""

import jax
import optax
from sklearn.datasets import load_digits

import jsnn
from jsnn.eventprop import latency, losses
from jsnn.eventprop.network import chain, dense, leaky, lif

images, labels = load_digits(return_X_y=True)
data = jsnn.data.arrays(images / 16, labels, num_test=360)
net = jsnn.network(chain(dense(64, 100), lif(dt=1.0), dense(100, 10), leaky(dt=1.0)))
task = jsnn.classifier(net, encode=latency.encoder(), loss=losses.ce_max_voltage, read_out=losses.max_voltage)  # fmt: skip
# Step size and epochs were chosen on 360 validation samples (num_validation=360): 0.05 was the best of 0.002 to 0.05.
trainer = jsnn.supervised(task, optax.adam(0.05), batch_size=32, epochs=20)
fitted = jsnn.fit(trainer, data, jax.random.key(0))
prediction = fitted.predict(data.test.images)
again = jsnn.load(fitted.save("digits_eventprop"), trainer).predict(data.test.images)
print(f"test accuracy {100 * (prediction.label == data.test.labels).mean():.1f} %, the same once loaded: {(again.label == prediction.label).all()}")  # fmt: skip
