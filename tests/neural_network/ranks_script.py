"""What each process of `test_ranks.py` does: a fit on its share of the samples."""

import sys

import numpy as np
from torch import distributed

from sklearn_robust import RobustMLPClassifier

RUNS = {  # by name: the parameters of a fit, and whether sample weights are given
    "gradient descent": ({"p_algo": 2}, False),
    "sign descent": ({"p_algo": np.inf, "loss": "exponential"}, True),
    "coordinate descent": ({"p_algo": 1}, False),
    "class weights": ({"p_algo": 2, "class_weight": "balanced", "loss_tol": 0.4}, True),
}


def data():
    """30 samples of three classes, sorted by class, so that no share holds them all."""
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], [6, 9, 15])
    X = rng.standard_normal((30, 4)) + 2 * np.eye(4)[np.searchsorted(["a", "b", "c"], y)]
    return X, y, rng.uniform(0.5, 2, 30)


def fitted(name, rows, **parameters):
    settings, weighted = RUNS[name]
    X, y, weight = data()
    network = RobustMLPClassifier(
        (5,), eps=0.1, max_iter=8, tol=0, attack_steps=3, **settings, **parameters
    )
    return network.fit(X[rows], y[rows], weight[rows] if weighted else None)


def figures(network):
    """Parameters and history as one array."""
    parts = [parameter.detach().numpy().ravel() for parameter in network.module_.parameters()]
    return np.concatenate([*parts, *network.history_.values(), [network.n_iter_]])


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    share = slice(0, 12) if rank == 0 else slice(12, 30)
    found = {}
    for name in RUNS:
        # the first process alone says which weights to start from
        seed = 0 if rank == 0 else 7
        found[name] = figures(fitted(name, share, distributed=True, random_state=seed))
    np.savez(f"{sys.argv[1]}/{rank}.npz", **found)
    distributed.destroy_process_group()
