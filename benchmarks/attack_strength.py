"""Claim: the default attack is within a point of AutoAttack, at a tenth of its time.

Fourteen networks and threats on digits in [0, 1]: fully connected networks of 64 and 64-64 ReLUs
and a small convolutional one, trained against q = inf, 2 and 1 and without an adversary; judged on
120 test samples at the radius of training and at 1.5 times it. In the same run:

- default: `sklearn_robust.attacks.ensemble` as `robust_score` calls it;
- AutoAttack: the published code, version "standard" (APGD on the cross-entropy, targeted APGD and
  FAB, 100 steps each, and Square with 5 000 queries). It is not shipped here. Without the option
  "full budget" stands for it: the default with 100 steps and 5 restarts, then 5 000 queries of
  `square`.

Shares of the samples that each leaves right, and CPU seconds.

    git clone https://github.com/fra31/auto-attack
    python benchmarks/attack_strength.py --autoattack auto-attack \
        > benchmarks/results/attack_strength.md

Numbers behind the options choose cases, from 0 to 13.
"""

import argparse
import functools
import importlib
import math
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _harness import machine, table
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from sklearn_robust import RobustMLPClassifier, RobustNetClassifier
from sklearn_robust.attacks import ensemble, square
from sklearn_robust.neural_network import madry_cnn

NETWORKS = {
    "64": functools.partial(RobustMLPClassifier, (64,)),
    "64-64": functools.partial(RobustMLPClassifier, (64, 64)),
    "convolutional": functools.partial(
        RobustNetClassifier, functools.partial(madry_cnn, channels=(4, 8), width=32)
    ),
}
RADII = {math.inf: 0.1, 2: 0.5, 1: 1.5}
TRAINED = [
    *(("64", q, q) for q in RADII),
    ("64", None, math.inf),
    ("64-64", math.inf, math.inf),
    ("64-64", 2, 2),
    ("convolutional", math.inf, math.inf),
]
CASES = [(*case, factor) for case in TRAINED for factor in (1.0, 1.5)]
NAMES = {math.inf: "Linf", 2: "L2", 1: "L1"}


@functools.cache
def data():
    X, y = load_digits(return_X_y=True)
    images = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return train_test_split(images, y, test_size=120, random_state=0)


@functools.cache
def trained(name, q):
    """A module of images (n, 1, 8, 8), trained against the ball of q; None is no adversary."""
    X, _, y, _ = data()
    eps = 0.0 if q is None else RADII[q]
    network = NETWORKS[name](
        q_pert=q or math.inf, eps=eps, clip=(0, 1), max_iter=50, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(X if name == "convolutional" else X.reshape(len(X), -1), y)
    module = network.module_.eval()
    return module if name == "convolutional" else torch.nn.Sequential(torch.nn.Flatten(), module)


def by_default(module, x, y, threat):
    return ensemble(module, x, y, **threat, random_state=0)


def at_full_budget(module, x, y, threat):
    points = ensemble(module, x, y, **threat, n_steps=100, n_restarts=5, random_state=0)
    left = right(module, points, y)
    points[left] = square(module, x[left], y[left], **threat, n_queries=5000, random_state=0)
    return points


def by_autoattack(folder):
    """The attack of the published code, which lies in this folder."""
    sys.path.append(str(folder))
    published = importlib.import_module("autoattack").AutoAttack

    def attack(module, x, y, threat):
        norm = NAMES[threat["q"]]
        judge = published(module, norm, threat["eps"], seed=0, verbose=False, device="cpu")
        return judge.run_standard_evaluation(x, y, bs=len(x))

    return attack


@torch.no_grad()
def right(module, points, y):
    return module(points).argmax(1) == y


def figures(case, attacks):
    """The share of the samples that each attack leaves right, and its CPU seconds."""
    name, trained_q, q, factor = case
    _, X, _, labels = data()
    x, y = torch.as_tensor(X), torch.as_tensor(labels)
    module = trained(name, trained_q)
    threat = {"eps": factor * RADII[q], "q": q, "clip": (0, 1)}
    found = []
    for attack in attacks.values():
        start = time.process_time()
        points = attack(module, x, y, threat)
        seconds = time.process_time() - start
        found.append((float(right(module, points, y).double().mean()), seconds))
    return found


def main(chosen, folder):
    name, attack = "full budget", at_full_budget
    if folder is not None:
        name, attack = "AutoAttack", by_autoattack(folder)
    attacks = {"default": by_default, name: attack}
    print("# The default attack and AutoAttack\n")
    print(f"`benchmarks/attack_strength.py`, {machine(['torch'])}\n", flush=True)
    rows, everything = [], []
    for case in chosen:
        network, trained_q, q, factor = case
        found = figures(case, attacks)
        everything.append(found)
        row = [network, "-" if trained_q is None else f"{trained_q:g}", f"{q:g}"]
        row.append(f"{factor * RADII[q]:g}")
        for share, seconds in found:
            row += [f"{100 * share:.1f}", f"{seconds:.2f}"]
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    header = [text for attack in attacks for text in (f"{attack} %", "CPU s")]
    print(table(["network", "trained q", "q", "eps", *header], rows))
    gaps = [100 * (ours[0] - theirs[0]) for ours, theirs in everything]
    ratios = [ours[1] / theirs[1] for ours, theirs in everything]
    print(
        f"The default leaves at most {max(gaps):.1f} points more right than {name}, and takes at "
        f"most {max(ratios):.3f} of its time.\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--autoattack", type=Path, help="folder of AutoAttack's published code")
    parser.add_argument("cases", nargs="*", type=int, help="from 0 to 13; all by default")
    arguments = parser.parse_args()
    main([CASES[case] for case in arguments.cases] or CASES, arguments.autoattack)
