"""Aim: a thousand classes work, and a fit of a hundred takes no more than three times X in memory.

Fits of `RobustLinearClassifier` on Gaussian data, 20 features, with the default tolerance of 1e-3:
"noise" has labels at random, which no classifier separates robustly; "classes" are Gaussian, far
apart, and separable. Each line is a process of its own with one thread: CPU time, and the peak of
resident memory during the call less that before, in megabytes and in units of X in float64. "gap"
is the certified gap of the risk, or of the margin where the data are separable.

The second table has random problems of 30 classes, minimised to a gap of 1e-6: how many are
certified, how many are separable, and what is left.

    python benchmarks/many_classes.py --jobs 8

writes benchmarks/results/many_classes.md, or another file that `--out` names, as the lines end.
"""

import argparse
import math
import time
import warnings
from multiprocessing import get_context
from pathlib import Path

import _harness as harness  # first: it sets one thread
import numpy as np
from large_data import resident
from sklearn.linear_model import LogisticRegression

from sklearn_robust import RobustLinearClassifier, robust_accuracy_score
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import LOSSES
from sklearn_robust.solvers import minimise_joint_risk

FITS = [  # kind, samples, features, classes, q, eps, loss
    ("noise", 3000, 20, 1000, math.inf, 0.3, "logistic"),
    ("noise", 3000, 20, 1000, math.inf, 0.3, "exponential"),
    ("noise", 3000, 20, 1000, 2.0, 0.9, "logistic"),
    ("classes", 3000, 20, 1000, math.inf, 0.1, "exponential"),
    ("noise", 20_000, 50, 100, math.inf, 0.1, "exponential"),
    ("noise", 20_000, 50, 100, math.inf, 0.1, "logistic"),
    ("score", 1_000_000, 20, 100, math.inf, 0.1, ""),
]
HEADER = ["data", "n", "d", "classes", "q", "eps", "loss", "CPU, s", "memory, MB", "memory / X"]
HEADER += ["separable", "gap", "warnings"]
N_RANDOM, N_CLASSES, GOAL = 100, 30, 1e-6
RANDOM_HEADER = ["seed", "n", "d", "q", "eps", "loss", "intercept", "CPU, s", "separable", "gap"]


def draw(kind, n, d, n_classes):
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    X = rng.standard_normal((n, d))
    if kind == "classes":
        X = 4 * rng.standard_normal((n_classes, d))[y] + 0.3 * X
    return X, y


def fit_line(kind, n, d, n_classes, q, eps, loss):
    """One line of the first table."""
    few = draw("noise", 30, d, 3)
    RobustLinearClassifier(eps=eps, q_pert=q).fit(*few)  # all imports are done
    X, y = draw(kind, n, d, n_classes)
    scored = LogisticRegression(max_iter=3).fit(X[:1000], y[:1000]) if kind == "score" else None
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")  # the peak from here on
    before, cpu = resident("VmRSS"), time.process_time()
    row = ["", "", ""]
    if scored is not None:
        robust_accuracy_score(scored, X, y, eps=eps)
    else:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = RobustLinearClassifier(q_pert=q, eps=eps, loss=loss).fit(X, y)
        row = [f"{model.separable_}", f"{model.dual_gap_:.1e}", f"{len(caught)}"]
    cpu, extra = time.process_time() - cpu, resident("VmHWM") - before
    sizes = [f"{extra / 1e6:.0f}", f"{extra / X.nbytes:.2f}"]
    head = [kind, f"{n}", f"{d}", f"{n_classes}", f"{q:g}", f"{eps:g}", loss]
    return [*head, harness.seconds(cpu), *sizes, *row]


def random_line(seed):
    """One line of the second table."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(2, 41))
    n = int(rng.integers(2, 12)) * N_CLASSES
    q = (1.0, 2.0, math.inf)[seed % 3]
    loss = ("logistic", "exponential")[seed // 3 % 2]
    y = np.arange(n) % N_CLASSES
    spread = 10 ** rng.uniform(-1, 0.7)
    X = spread * rng.standard_normal((N_CLASSES, d))[y] + rng.standard_normal((n, d))
    X *= 10 ** rng.uniform(-1, 1, d) if rng.random() < 0.3 else 1.0
    eps = 10 ** rng.uniform(-2, 0.5) * d ** (0.5 if q == 2.0 else 0.0 if math.isinf(q) else 1.0)
    weight = rng.exponential(size=n) if rng.random() < 0.5 else None
    problem = JointProblem.from_data(
        X, y, q=q, eps=eps, fit_intercept=bool(rng.random() < 0.7), sample_weight=weight
    )
    cpu = time.process_time()
    found = minimise_joint_risk(problem, LOSSES[loss], tol=GOAL)
    cpu = time.process_time() - cpu
    head = [f"{seed}", f"{n}", f"{d}", f"{q:g}", f"{eps:.3g}", loss, f"{problem.fit_intercept}"]
    return [*head, harness.seconds(cpu), f"{found.separable}", f"{found.gap:.1e}"]


def line(case):
    """The line of a case: a fit, or a random problem by its seed."""
    return case, fit_line(*case) if isinstance(case, tuple) else random_line(case)


def report(found):
    fits = [found[case] for case in FITS if case in found]
    drawn = [found[seed] for seed in range(N_RANDOM) if seed in found]
    separable = [row for row in drawn if row[-2] == "True"]
    rest = [row for row in drawn if row[-2] != "True"]
    missed = [row for row in rest if not float(row[-1]) <= GOAL]
    return (
        f"## Fits\n\n{harness.table(HEADER, fits)}\n## Random problems of {N_CLASSES} classes\n\n"
        f"{len(drawn)} problems: {len(separable)} separable, {len(rest) - len(missed)} certified "
        f"to {GOAL:g}, {len(missed)} at a larger gap:\n\n{harness.table(RANDOM_HEADER, missed)}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "many_classes.md")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Many classes\n\n{harness.machine(['numpy', 'scipy', 'scikit-learn'])}\n\n"
    unfinished, found = given.out.with_suffix(".part"), {}
    with get_context("fork").Pool(given.jobs, maxtasksperchild=1) as processes:
        for case, row in processes.imap_unordered(line, [*FITS, *range(N_RANDOM)]):
            found[case] = row
            print(*row, flush=True)
            unfinished.write_text(head + report(found))
            unfinished.replace(given.out)


if __name__ == "__main__":
    main()
