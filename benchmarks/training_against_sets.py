"""CPU time of fits and exact separators against sets, relative to the l_inf ball; and their gaps.

    python benchmarks/training_against_sets.py

Medians of five, both measured in one process.
"""

import math
import time

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import scale

from sklearn_robust import RobustLinearClassifier
from sklearn_robust.separators import min_norm_separator
from sklearn_robust.threats import Box, Ellipsoid, FeatureBudget, LpBall


def tables():
    """Tables by name: X, y, eps, and the limits of the data."""
    X, y = load_breast_cancer(return_X_y=True)
    yield "cancer 569 x 30", scale(X).clip(-3, 3), y, 0.2, (-3, 3)
    X, y = load_digits(return_X_y=True)
    used = (y == 3) | (y == 8)
    yield "digits 357 x 64", X[used] / 16, (y[used] == 8).astype(int), 0.2, (0, 1)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 100)).clip(-3, 3)
    y = X @ rng.normal(size=100) + 5 * rng.normal(size=5000) > 0
    yield "gauss 5000 x 100", X, y.astype(int), 0.1, (-3, 3)


def separable(n, d):
    """Rows with a planted margin."""
    rng = np.random.default_rng(1)
    X, w = rng.normal(size=(n, d)), rng.normal(size=d) / math.sqrt(d)
    y = np.sign(X @ w)
    return X + 0.5 * np.outer(y, w) / np.linalg.norm(w), y


def sets(d, eps, clip):
    return {
        "l_inf ball": LpBall(math.inf, eps),
        "box of unlike bounds": Box(-eps / 2, eps),
        "limits": LpBall(math.inf, eps, clip=clip),
        "one class": LpBall(math.inf, {0: eps, 1: 0.0}),
        "budget of 5": FeatureBudget(5, eps),
        "ellipsoid": Ellipsoid(eps**2 * (np.eye(d) + 0.1), 1.0),
        "budget or l_2": FeatureBudget(5, eps) | LpBall(2, eps),
        "box + l_2": Box(0.0, eps / 2) + LpBall(2, eps),
    }


def median_time(function, repeats=5):
    """The median CPU time, and the last answer."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        answer = function()
        times.append(time.process_time() - start)
    return float(np.median(times)), answer


def main():
    for name, X, y, eps, clip in tables():
        print(f"\n{name}: fit of the logistic risk")
        base = None
        for kind, threat in sets(X.shape[1], eps, clip).items():
            model = RobustLinearClassifier(threat=threat, loss="logistic")
            spent, model = median_time(lambda model=model, X=X, y=y: model.fit(X, y))
            base = spent if base is None else base
            print(
                f"  {kind:22} {spent:.4f} s, ratio {spent / base:5.2f}, gap {model.dual_gap_:.1e}, "
                f"separable {model.separable_}"
            )
            scored, _ = median_time(lambda model=model, X=X, y=y: model.robust_score(X, y))
            if kind == "l_inf ball":
                of_ball = scored
            print(f"  {'':22} score {scored:.5f} s, ratio {scored / of_ball:.2f}")
    for n, d in ((500, 30), (5000, 100)):
        X, y = separable(n, d)
        eps, y = 0.02, (y > 0).astype(int)
        print(f"\nseparator of {n} x {d}, p = 2")
        far = (X.min(axis=0), X.max(axis=0))
        for kind, threat in sets(d, eps, far).items():
            spent, found = median_time(
                lambda threat=threat, X=X, y=y: min_norm_separator(
                    X, y, p=2, threat=threat, fit_intercept=True
                ),
                1 if n > 1000 else 3,
            )
            print(f"  {kind:22} {spent:.4f} s, gap {found.relative_gap:.1e}")


if __name__ == "__main__":
    main()
