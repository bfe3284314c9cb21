"""Claim: an epoch of adversarial training costs hardly more than its matrix products.

Network 784-784-1 without biases, full batch, PGD-10 in l_inf, float32, one thread. An epoch needs 10 products forward and 10
back to the input for the attack, then one forward and one for the weight gradient. Three times, medians over alternating runs:

- products: these 22 products and nothing else;
- ours: an epoch of `RobustMLPClassifier`, all included;
- by hand: the loop that is usually written, where `loss.backward()` forms weight gradients in every attack step too.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE OMP_NUM_THREADS=1 python benchmarks/adversarial_training.py
"""

import math
import time
import warnings
from statistics import median

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust import RobustMLPClassifier

WIDTH, EPS, STEPS, EPOCHS, ROUNDS = 784, 0.1, 10, 5, 9


def seconds_per_epoch(run):
    start = time.perf_counter()
    run(EPOCHS)
    return (time.perf_counter() - start) / EPOCHS


def products(x, weight):
    ones = torch.ones(len(x), len(weight))

    def run(epochs):
        for _ in range(epochs):
            for _ in range(STEPS):
                x @ weight.T
                ones @ weight
            x @ weight.T
            ones.T @ x

    return run


def ours(X, y, p):
    network = RobustMLPClassifier(
        (WIDTH,),
        p,
        eps=EPS,
        bias=False,
        init_scale=0.3,
        clip=(0, 1),
        loss="exponential",
        tol=0,
        warm_start=True,
        random_state=0,
    )
    network.set_params(max_iter=1).fit(X, y)
    return lambda epochs: network.set_params(max_iter=epochs).fit(X, y)


def by_hand(x, y):
    network = torch.nn.Sequential(
        torch.nn.Linear(784, WIDTH, bias=False), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 1, bias=False)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    sign = 2.0 * y - 1

    def loss(points):
        return torch.exp(-sign * network(points)[:, 0]).mean()

    def run(epochs):
        for _ in range(epochs):
            points = x.clone()
            for _ in range(STEPS):
                points.requires_grad_()
                loss(points).backward()
                points = torch.clamp(points.detach() + EPS / 4 * points.grad.sign(), x - EPS, x + EPS).clamp(0, 1)
            optimizer.zero_grad()
            loss(points).backward()
            optimizer.step()

    return run


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    rng = np.random.default_rng(0)
    for n in (100, 500):
        X = (rng.random((n, 784)) * (rng.random((n, 784)) < 0.2)).astype(np.float32)
        y = rng.integers(0, 2, n)
        x = torch.from_numpy(X)
        runs = {
            "products": products(x, torch.randn(WIDTH, 784)),
            "ours, p = 2": ours(X, y, 2),
            "ours, p = inf": ours(X, y, math.inf),
            "by hand": by_hand(x, torch.from_numpy(y)),
        }
        times = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                times[name].append(seconds_per_epoch(run))
        base = median(times["products"])
        for name, values in times.items():
            print(
                f"n = {n:<4} {name:<14} {1e3 * median(values):7.2f} ms an epoch, {median(values) / base:.3f} times the products"
            )


if __name__ == "__main__":
    main()
