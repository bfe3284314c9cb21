"""Claim: no fit of a linear model leaves a RuntimeWarning, an unexpected error, a gap in silence,
or takes 20 seconds.

Random small problems that are ill-scaled, weighted or degenerate: columns from 1e-8 to 1e8, weights
from 1e-12 to 1e12, duplicated, zero and constant rows and columns, integer grids; every estimator,
solver and loss. What a fit claims is recomputed from its coefficients.

    python benchmarks/fit_soak.py --fits 3000
"""

import argparse
import itertools
import math
import signal
import time
import traceback
import warnings
from collections import Counter

import _harness as harness
import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust import (
    MinNormRobustClassifier,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    robust_linear_path,
)

EXPONENTS = (1, 1.2, 1.5, 2, 3, 4, 10, 50, math.inf)
LIMIT = 20.0  # seconds
COUNTED = (
    "RuntimeWarning",
    "unexpected error",
    "gap above tol in silence",
    "false claim",
    f"call over {LIMIT:.0f} s",
)
EXPECTED_ERRORS = (
    "at least two classes",
    "is for two classes",
    "is for two classes",
    "X must hold numbers whose squares",
    "sample_weight must be positive for a test",
)


def data(rng):
    """X, y and sample weights, or None."""
    n, d = int(rng.integers(4, 41)), int(rng.integers(1, 13))
    X = (
        rng.integers(-2, 3, (n, d)).astype(float)
        if rng.random() < 0.25
        else rng.standard_normal((n, d))
    )
    noise = rng.choice([0.0, 0.3, 3.0])
    score = X @ rng.standard_normal(d) + noise * rng.standard_normal(n)
    classes = 2 if rng.random() < 0.85 else 3
    y = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))
    for at in range(2):  # no fit without two classes
        y[at] = at
    if rng.random() < 0.3:
        X[rng.random((n, d)) < 0.6] = 0
    if rng.random() < 0.2:
        X[rng.integers(n)] = 0
    if rng.random() < 0.2:
        X[:, rng.integers(d)] = rng.standard_normal()
    if rng.random() < 0.2:
        rows = rng.integers(n, size=n)
        X, y = (
            np.vstack([X, X[rows]]),
            np.append(y, y[rows] if rng.random() < 0.5 else rng.permutation(y)),
        )
    if rng.random() < 0.2:
        X += 10 ** rng.uniform(0, 4)
    if rng.random() < 0.4:
        X = X * 10 ** rng.uniform(-8, 8, X.shape[1])
    weight = None
    if rng.random() < 0.5:
        weight = (
            10 ** rng.uniform(-12, 12, len(y))
            if rng.random() < 0.6
            else rng.integers(0, 3, len(y)).astype(float)
        )
    kind = rng.random()
    X = X.astype(np.float32) if kind < 0.2 else sparse.csr_array(X) if kind < 0.3 else X
    return X, y, weight


def draw(seed):
    """The data of a fit, a description of it, and the fit itself: () -> list of claims."""
    rng = np.random.default_rng(seed)
    X, y, weight = data(rng)
    dense = X.toarray() if sparse.issparse(X) else X
    size = float(np.abs(dense[y == 0].mean(axis=0) - dense[y != 0].mean(axis=0)).max())
    eps = 0.0 if rng.random() < 0.15 else size * 10 ** rng.uniform(-5, 0.3)
    q, p = (rng.choice(EXPONENTS).item() for _ in range(2))
    shared = {
        "loss": rng.choice(["exponential", "logistic"]).item(),
        "fit_intercept": bool(rng.random() < 0.8),
        "max_iter": 2000 if rng.random() < 0.9 else 20_000,
        "loss_tol": rng.choice([1e-3, 0.0]).item(),
        "class_weight": "balanced" if rng.random() < 0.2 else None,
        "scale": 10 ** rng.uniform(-3, 3, X.shape[1]) * (rng.random(X.shape[1]) < 0.8)
        if rng.random() < 0.15
        else None,
    }
    solver = rng.choice(["auto", "steepest_descent", "exact", "accelerated"]).item()
    name = rng.choice(
        ["RobustLinearClassifier", "robust_linear_path", "CV", "RobustDiagonalNet", "MinNorm"],
        p=[0.5, 0.1, 0.1, 0.15, 0.15],
    )
    if name in ("robust_linear_path", "CV"):  # many fits
        shared["max_iter"] = 500
    if name == "RobustLinearClassifier":
        model = RobustLinearClassifier(p, q, eps, solver=solver, **shared)
    elif name == "CV":
        radii = "auto" if rng.random() < 0.5 else [eps, 2 * eps]
        model = RobustLinearClassifierCV(p, q, radii, threat_eps=eps, cv=2, solver=solver, **shared)
    elif name == "RobustDiagonalNet":
        model = RobustDiagonalNet(q, eps, depth=int(rng.integers(2, 4)), **shared)
    elif name == "MinNorm":
        model = MinNormRobustClassifier(
            p, q, eps, scale=shared["scale"], fit_intercept=shared["fit_intercept"]
        )
    else:

        def follow():
            path = robust_linear_path(
                X, y, p=p, q=q, eps=[eps, eps / 3], solver=solver, sample_weight=weight, **shared
            )
            return [] if path.converged.all() else ["not converged"]

        return (
            f"robust_linear_path(p={p}, q={q}, eps={eps!r}, solver={solver!r}, **{shared})",
            follow,
        )

    def fit():
        return claims(model.fit(X, y, weight), dense, y, weight)

    return (
        f"{model!r}, {X.dtype} {X.shape}, weights "
        f"{'of any order' if weight is not None and weight.max() > 10 else 'even'}",
        fit,
    )


def claims(model, X, y, weight):
    """What is wrong with what a fit says about itself, and "not converged" where a gap is above
    tol."""
    single = getattr(model, "best_estimator_", model)
    used = np.ones(len(y), bool) if weight is None else weight > 0
    smallest = smallest_margin(model, single, X[used], y[used])
    if (model.margin_ > 0) != (smallest > 0) and model.coef_.any():
        return [
            f"false claim: margin_ is {model.margin_}, and the smallest robust margin {smallest}"
        ]
    if model.separable_ and getattr(single, "loss_tol", 0) > 0:
        # "balanced" leaves the sum of the weights as it is
        total = np.log(used.sum() if weight is None else weight[used].sum())
        if model.log_risk_ + total <= np.log(single.loss_tol) + 1e-6:
            return []  # stopped where it should
    tol = getattr(single, "tol", None) or (1e-3 if X.dtype == np.float32 else 1e-8)
    return [] if model.dual_gap_ <= tol else ["not converged"]


def smallest_margin(model, single, X, y):
    """The smallest robust margin, in extended precision."""
    coef, b = model.coef_.astype(np.longdouble), model.intercept_.astype(np.longdouble)
    if len(coef) == 1:
        coef, b = np.vstack([0 * coef, coef]), np.append(0 * b, b)
    scale = 1 if model.scale_ is None else model.scale_.astype(np.longdouble)
    q = single.q_pert
    dual = 1 if q == math.inf else math.inf if q == 1 else q / (q - 1)
    margins = []
    for true, rival in itertools.permutations(range(len(coef)), 2):
        w = coef[true] - coef[rival]
        largest = np.abs(scale * w).max()
        penalty = largest * np.linalg.norm(scale * w / largest, dual) if largest > 0 else 0
        scores = X[y == model.classes_[true]].astype(np.longdouble) @ w + b[true] - b[rival]
        margins.extend(scores - np.longdouble(single.eps) * penalty)
    return float(min(margins))


class _OutOfTimeError(BaseException):
    pass


def _alarm(*args):
    raise _OutOfTimeError


def run(seed):
    """What is to be counted of one fit, with a line that tells which."""
    description, fit = draw(seed)
    found = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        old = signal.signal(signal.SIGALRM, _alarm)
        signal.setitimer(signal.ITIMER_REAL, 3 * LIMIT)
        start = time.process_time()
        try:
            problems = fit()
        except _OutOfTimeError:
            problems = [COUNTED[4]]
        except Exception as error:
            problems = []
            if not any(text in str(error) for text in EXPECTED_ERRORS):
                problems = [f"unexpected error: {''.join(traceback.format_exception(error)[-3:])}"]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        if time.process_time() - start > LIMIT:
            problems.append(COUNTED[4])
    for warning in caught:
        if issubclass(warning.category, RuntimeWarning):
            found.append(
                f"RuntimeWarning: {warning.message} "
                f"({warning.filename.rpartition('/')[2]}:{warning.lineno})"
            )
    warned = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    found += [problem for problem in problems if problem != "not converged"]
    if "not converged" in problems and not warned:
        found.append(COUNTED[2])
    return description, sorted(set(found)), warned


def soak(seeds, out=print):
    """Run the fits of these seeds; the counts of what was found, by name, and of the fits that
    warned of their gap."""
    counts, n_warned = Counter(), 0
    for seed in seeds:
        description, found, warned = run(seed)
        n_warned += warned
        for name in {
            next(name for name in COUNTED if problem.startswith(name)) for problem in found
        }:
            counts[name] += 1
        if found:
            out(f"{seed}: {description}\n    " + "\n    ".join(found))
    return counts, n_warned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    start = time.process_time()
    counts, n_warned = soak(range(options.first, options.first + options.fits))
    seconds = time.process_time() - start
    text = (
        f"# Random fits\n\n{harness.machine(['numpy', 'scipy', 'scikit-learn'])}\n\n{options.fits} "
        f"random fits (seeds "
        f"{options.first} to {options.first + options.fits - 1}), {seconds:.0f} s of CPU time; "
        f"{n_warned} warned of a gap that "
        "they did not reach.\n\n"
    )
    rows = [[name, str(counts[name])] for name in COUNTED]
    harness.write("fit_soak.md", text + harness.table(["fits with", "number"], rows))


if __name__ == "__main__":
    main()
