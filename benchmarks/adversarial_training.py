"""Claim: an epoch of adversarial training costs hardly more than its matrix products.

Network 784-784-1 without biases, full batch, PGD-10 in l_inf, pixels kept in [0, 1], float32, one
thread. An epoch needs 10 products forward and 10 back to the input for the attack, then one forward
and one for the weight gradient. In the same run:

- products: these 22 products and nothing else;
- ours: `RobustMLPClassifier.fit`, all included, with its history and its checks;
- torchattacks, ART: their PGD with the same steps, then the same training step by hand;
- by hand: the loop that is usually written, where `loss.backward()` forms weight gradients in every
  attack step too.

Runs alternate. The figures are medians over the rounds: of CPU milliseconds an epoch, and of the
ratio to the products of the same round. Peers that are not installed are skipped. torchattacks pins
an old `requests`, which this does not need: `pip install ".[bench]"`, then `pip install --no-deps
torchattacks`.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE OMP_NUM_THREADS=1 python
    benchmarks/adversarial_training.py
"""

import importlib
import importlib.metadata
import math
import platform
import time
import warnings
from statistics import median

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust import RobustMLPClassifier

WIDTH, EPS, STEPS, ROUNDS = 784, 0.1, 10, 15
STEP = 2.5 * EPS / STEPS
EPOCHS = {100: 20, 500: 6}  # a round


def products(x):
    weight, ones = torch.randn(WIDTH, 784), torch.ones(len(x), WIDTH)

    def run(epochs):
        for _ in range(epochs):
            for _ in range(STEPS):
                x @ weight.T
                ones @ weight
            x @ weight.T
            ones.T @ x

    return run


def ours(x, y, p):
    network = RobustMLPClassifier(
        (WIDTH,),
        p,
        eps=EPS,
        bias=False,
        init_scale=0.3,
        clip=(0, 1),
        loss="exponential",
        schedule="curvature",
        batch_size=None,
        standardize=False,
        loss_tol=0,
        warm_start=True,
        random_state=0,
    )
    network.set_params(max_iter=1).fit(x, y)
    return lambda epochs: network.set_params(max_iter=epochs).fit(x, y)


def trained(x, y, attack):
    """The usual training step on the points of an attack: `attack(network, loss, logits)` makes a
    function of x."""
    network = torch.nn.Sequential(
        torch.nn.Linear(784, WIDTH, bias=False),
        torch.nn.ReLU(),
        torch.nn.Linear(WIDTH, 1, bias=False),
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    sign = 2.0 * y - 1

    def loss(points):
        return torch.exp(-sign * network(points)[:, 0]).mean()

    perturb = attack(network, loss)

    def run(epochs):
        for _ in range(epochs):
            points = perturb(x)
            optimizer.zero_grad()
            loss(points).backward()
            optimizer.step()

    return run


class TwoLogits(torch.nn.Module):
    """What the cross-entropy of the peers needs."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        scores = self.network(x)
        return torch.cat([torch.zeros_like(scores), scores], dim=1)


def by_hand(network, loss):
    def perturb(x):
        points = x.clone()
        for _ in range(STEPS):
            points.requires_grad_()
            loss(points).backward()
            points = torch.clamp(
                points.detach() + STEP * points.grad.sign(), x - EPS, x + EPS
            ).clamp(0, 1)
        return points

    return perturb


def with_torchattacks(y):
    module = importlib.import_module("torchattacks")

    def attack(network, loss):
        pgd = module.PGD(TwoLogits(network), eps=EPS, alpha=STEP, steps=STEPS, random_start=False)
        return lambda x: pgd(x, y)

    return attack


def with_art(y):
    classification = importlib.import_module("art.estimators.classification")
    evasion = importlib.import_module("art.attacks.evasion")

    def attack(network, loss):
        model = classification.PyTorchClassifier(
            TwoLogits(network),
            torch.nn.CrossEntropyLoss(),
            input_shape=(784,),
            nb_classes=2,
            clip_values=(0, 1),
            device_type="cpu",
        )
        pgd = evasion.ProjectedGradientDescentPyTorch(
            model,
            norm=np.inf,
            eps=EPS,
            eps_step=STEP,
            max_iter=STEPS,
            batch_size=len(y),
            verbose=False,
        )
        return lambda x: torch.from_numpy(pgd.generate(x.numpy(), y.numpy()))

    return attack


PEERS = {
    "torchattacks": ("torchattacks", with_torchattacks),
    "ART": ("adversarial-robustness-toolbox", with_art),
}


def versions():
    found = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    for name, (package, _) in PEERS.items():
        try:
            found.append(f"{name} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed: skipped")
    return ", ".join(found)


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"{versions()}; {platform.machine()}, {torch.get_num_threads()} thread\n")
    print("| n | | CPU ms an epoch | times the products |\n|---|---|---|---|")
    rng = np.random.default_rng(0)
    for n, epochs in EPOCHS.items():
        X = (rng.random((n, 784)) * (rng.random((n, 784)) < 0.2)).astype(np.float32)
        x, y = torch.from_numpy(X), torch.from_numpy(rng.integers(0, 2, n))
        runs = {
            "products": products(x),
            "ours, p = 2": ours(X, y.numpy(), 2),
            "ours, p = inf": ours(X, y.numpy(), math.inf),
        }
        for name, (_, attack) in PEERS.items():
            try:
                runs[name] = trained(x, y, attack(y))
            except ImportError:
                continue
        runs["by hand"] = trained(x, y, by_hand)
        seconds = {name: [] for name in runs}
        for run in runs.values():
            run(2)
        for _ in range(ROUNDS):
            for name, run in runs.items():
                start = time.process_time()
                run(epochs)
                seconds[name].append((time.process_time() - start) / epochs)
        for name, values in seconds.items():
            ratio = median(a / b for a, b in zip(values, seconds["products"], strict=True))
            print(f"| {n} | {name} | {1e3 * median(values):.1f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
