"""One network trained by several processes, each on samples of its own.

The process of the test is one of two; the other runs this file. (torchrun would start both.)
"""

import subprocess
import sys
import warnings
from datetime import timedelta

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from torch import distributed, nn, optim

from sklearn_robust import RobustMLPClassifier, RobustNetClassifier

RUNS = {  # by name: the parameters of a fit, and whether samples have weights
    "gradient descent": ({"p_algo": 2}, False),
    "sign descent": ({"p_algo": np.inf, "loss": "exponential"}, True),
    "coordinate descent": ({"p_algo": 1}, False),
    "to a loss": ({"class_weight": "balanced", "loss_tol": 0.9, "max_iter": 20}, True),
}
SHARES = slice(0, 12), slice(12, 30)


def data():
    """30 samples of three classes, sorted by class: no process sees them all."""
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], [6, 9, 15])
    X = rng.standard_normal((30, 4)) + 2 * np.eye(4)[np.searchsorted(["a", "b", "c"], y)]
    return X, y, rng.uniform(0.5, 2, 30)


def fitted(name, rows, **parameters):
    settings, weighted = RUNS[name]
    X, y, weight = data()
    shared = {"eps": 0.1, "max_iter": 4, "loss_tol": 0, "batch_size": None, "attack_steps": 3}
    network = RobustMLPClassifier((5,), **{**shared, **settings, **parameters})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(X[rows], y[rows], weight[rows] if weighted else None)


def parameters_of(network):
    return nn.utils.parameters_to_vector(network.module_.parameters()).detach().numpy()


def figures(network):
    """Parameters and history as one array."""
    return np.concatenate([parameters_of(network), *network.history_.values(), [network.n_iter_]])


def short_steps(rows, **parameters):
    """The steps of one epoch of gradient descent at a tiny rate, in units of it."""
    shared = {"max_iter": 1, "optimizer": optim.SGD, "schedule": "constant", "random_state": 0}
    start, end = (
        fitted("to a loss", rows, **{**shared, "learning_rate": rate, **parameters})
        for rate in (1e-300, 1e-7)
    )
    return (parameters_of(end) - parameters_of(start)) / 1e-7


def run_share(rank, store):
    """The fits of one of the two processes, and their messages on data that do not match."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=250),
    )
    try:
        # the first process alone says which weights to start from
        seed = 0 if rank == 0 else 7
        found = {
            name: figures(fitted(name, SHARES[rank], distributed=True, random_state=seed))
            for name in RUNS
        }
        batched = fitted(
            "to a loss", SHARES[rank], distributed=True, random_state=0, batch_size=5, max_iter=4
        )
        found["batches"] = figures(batched)
        found["short steps"] = short_steps(SHARES[rank], distributed=True, batch_size=5)
        X, y, _ = data()
        with pytest.raises(ValueError, match=r"X must have the same shape in all 2 processes"):
            RobustMLPClassifier((5,), distributed=True).fit(X[:, : 3 + rank], y)
        module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        with pytest.raises(ValueError, match=r"layers that normalise by the batch: \['1'\]"):
            RobustNetClassifier(module, distributed=True).fit(X, y)
        with pytest.warns(UserWarning, match="Each of the 2 processes .* distributed=True"):
            fitted("gradient descent", slice(None), max_iter=1)
    finally:
        distributed.destroy_process_group()
    return found


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(tmp_path):
    store, other = tmp_path / "store", tmp_path / "other.npz"
    run = [sys.executable, __file__, str(store), str(other)]
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = run_share(0, store)
            _, errors = process.communicate(timeout=250)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    for name, here in found.items():
        np.testing.assert_array_equal(here, np.load(other)[name])
        if name in RUNS:
            alone = figures(fitted(name, slice(None), random_state=0))
            np.testing.assert_allclose(here, alone, rtol=1e-9, atol=1e-12, err_msg=name)
    # an epoch of 4 batches follows the risk of all samples; one batch follows its logarithm
    risk = fitted("to a loss", slice(None), max_iter=1, random_state=0).loss_
    of_all = 4 * risk * short_steps(slice(None))
    np.testing.assert_allclose(found["short steps"], of_all, rtol=1e-3, atol=1e-4)


def test_no_process_group_is_no_silent_fit_alone():
    X, y, _ = data()
    with pytest.raises(ValueError, match=r"distributed=True needs a process group.*torchrun"):
        RobustMLPClassifier(distributed=True).fit(X, y)


if __name__ == "__main__":
    np.savez(sys.argv[2], **run_share(1, sys.argv[1]))
