"""STDP and reward, without a gradient, on your own images: train, predict, save, load."""

import jax
from sklearn.datasets import load_digits

import jsnn
from jsnn.stdp import Block, Conv, Decision, Network

images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8) * 15).astype("uint8").repeat(2, 1).repeat(2, 2)
data = jsnn.data.arrays(images, labels, num_test=360)
first = Block((Conv(32, 3, threshold=3.0, num_winners=4, radius=2, pad=1, pool=2),))
trainer = jsnn.stdp.trainer(Network((first,), (Decision(200, 5, pad=1),), epochs=(2, 6)), doubling=100)  # fmt: skip
fitted = jsnn.fit(trainer, data, jax.random.key(0))
prediction = fitted.predict(data.test.images)
again = jsnn.load(fitted.save("digits_stdp"), trainer).predict(data.test.images)
print(f"test accuracy {100 * (prediction.label == data.test.labels).mean():.1f} %, the same once loaded: {(again.label == prediction.label).all()}")  # fmt: skip
