"""Images and labels as arrays in memory, and recordings of event sensors (`events`, `event_files`).

`load` fetches a data set by name, `from_arrays` takes your own; both give a checked `Dataset`.
Importing this package imports neither tensorflow_datasets nor scikit-learn nor PIL, and nothing
here ever imports TensorFlow.
"""

from jsnn.data.arrays import arrays as arrays
from jsnn.data.arrays import from_file as from_file
from jsnn.data.arrays import read_arrays as read_arrays
from jsnn.data.dataset import DataError as DataError
from jsnn.data.dataset import Dataset as Dataset
from jsnn.data.dataset import Split as Split
from jsnn.data.dataset import check_labels as check_labels
from jsnn.data.dataset import check_split as check_split
from jsnn.data.dataset import from_arrays as from_arrays
from jsnn.data.dataset import hold_out as hold_out
from jsnn.data.loading import NAMES as NAMES
from jsnn.data.loading import load as load
from jsnn.data.yinyang import YinYang as YinYang
from jsnn.data.yinyang import yin_yang as yin_yang
