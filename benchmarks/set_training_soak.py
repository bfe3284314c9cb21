"""Random training problems against every kind of set, with two classes and with three: the optimum
of the risk and the largest margin against cvxpy, and the certified gaps.

    python benchmarks/set_training_soak.py [--cases 100] [--jobs 16] [--only box,flips]

The reference writes each support function down again as a cvxpy expression, for each pair of a
sample and a rival class. A line for each kind and number of classes has the largest error of the
risk, absolute, and its largest gap; the largest error of the margin, relative, and its largest gap;
and how many problems were separable, or not. With $OUT set, the lines go to $OUT/soak.jsonl too, as
they are found.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from pathlib import Path

import cvxpy as cp
import numpy as np
from joblib import Parallel, delayed

from sklearn_robust import NotSeparableError, RobustLinearClassifier, min_norm_separator
from sklearn_robust.threats import (
    Box,
    Ellipsoid,
    FeatureBudget,
    LinearImage,
    LpBall,
    OneHot,
    Relations,
)

N, D = 24, 5
GROUPS = [[0, 1, 2], [3, 4]]
TOL = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}


def box(lower, upper):
    """The support function of a box; upper sides without end become constraints."""

    def support(v, rules):
        rules += [v[j] <= 0 for j in np.flatnonzero(np.isinf(upper))]
        return np.where(np.isinf(upper), 0.0, upper) @ cp.pos(v) - lower @ cp.neg(v)

    return support


def norm(q, eps):
    dual = {1: math.inf, 2: 2, math.inf: 1}[q]
    return lambda v, rules: eps * cp.norm(v, dual)


def nothing(v, rules):
    return 0.0


def draw(kind, rng, K):
    """A threat, the sample radii or None, the data map, and the support of (x, class, radius)."""
    u = rng.uniform(0.05, 0.4, D)
    low = rng.uniform(0.0, 0.3, D)
    radius = None
    same = lambda X: X  # noqa: E731
    if kind.startswith("class radii"):
        q = {"1": 1, "2": 2, "i": math.inf}[kind[-1]]
        eps = {k: float(rng.choice([0.0, rng.uniform(0.05, 0.5)])) for k in range(K)}
        return LpBall(q, eps), None, same, lambda x, k, r: norm(q, eps[k])
    if kind.startswith("sample radii"):
        q = {"1": 1, "2": 2, "i": math.inf}[kind[-1]]
        radius = rng.uniform(0, 2, N)
        return LpBall(q, 0.2), radius, same, lambda x, k, r: norm(q, 0.2 * r)
    if kind == "box":
        return Box(-low, u), None, same, lambda x, k, r: box(-low, u)
    if kind == "box, sample radii":
        radius = rng.uniform(0, 2, N)
        return Box(-low, u), radius, same, lambda x, k, r: box(-r * low, r * u)
    if kind == "box without end":
        lower, upper = -low, u.copy()
        upper[rng.integers(D)] = np.inf
        if rng.random() < 0.5:
            attacker = int(rng.integers(K))
            of = lambda x, k, r: box(lower, upper) if k == attacker else nothing  # noqa: E731
            return Box(lower, upper).only(attacker), None, same, of
        return Box(lower, upper), None, same, lambda x, k, r: box(lower, upper)
    if kind == "limits":
        ball = LpBall(math.inf, 0.3, clip=(-1, 1))

        def of(x, k, r):
            return box(np.maximum(-0.3, -1 - x), np.minimum(0.3, 1 - x))

        return ball, None, lambda X: X.clip(-1, 1), of
    if kind == "budget":
        return (
            FeatureBudget(2, 0.3).only(0),
            None,
            same,
            lambda x, k, r: (
                (lambda v, rules: 0.3 * cp.sum_largest(cp.abs(v), 2)) if k == 0 else nothing
            ),
        )
    if kind == "flips":

        def of(x, k, r):
            return lambda v, rules: cp.pos(cp.max(cp.multiply(1 - 2 * x, v)))

        return FeatureBudget(1, binary=True), None, lambda X: (X > 0).astype(float), of
    if kind == "categories":

        def of(x, k, r):
            def support(v, rules):
                gains = [v[j] - v[g[int(np.argmax(x[g]))]] for g in GROUPS for j in g]
                return cp.pos(cp.max(cp.hstack(gains)))

            return support

        def encode(X):
            parts = [np.eye(len(g))[np.argmax(X[:, g], axis=1)] for g in GROUPS]
            return np.concatenate(parts, axis=1)

        return OneHot(GROUPS, 1), None, encode, of
    if kind == "ellipsoid":
        root = 0.1 * rng.normal(size=(D, D)) + 0.1 * np.eye(D)
        of = lambda x, k, r: lambda v, rules: r * cp.norm(root.T @ v)  # noqa: E731
        return Ellipsoid(root @ root.T), rng.uniform(0, 2, N), same, of
    if kind == "image":
        L = 0.3 * rng.normal(size=(D, 2))
        of = lambda x, k, r: box_image(L)  # noqa: E731
        return LinearImage(Box([0.0, -0.2], [1.0, 0.5]), L), None, same, of
    if kind == "union":

        def of(x, k, r):
            return lambda v, rules: cp.maximum(box(-low, u)(v, rules), 0.3 * cp.norm(v))

        return Box(-low, u) | LpBall(2, 0.3), None, same, of
    if kind == "sum":
        return (
            Box(np.zeros(D), u) + LpBall(2, 0.2),
            None,
            same,
            lambda x, k, r: lambda v, rules: u @ cp.pos(v) + 0.2 * cp.norm(v),
        )
    if kind == "intersection":

        def of(x, k, r):
            def support(v, rules):
                t = cp.Variable(D)
                return box(-low, u)(t, rules) + 0.3 * cp.norm(v - t)

            return support

        return Box(-low, u) & LpBall(2, 0.3), None, same, of
    assert kind == "relations", kind
    A, b = rng.normal(size=(2, D)), rng.uniform(0, 0.2, 2)

    def of(x, k, r):
        def support(v, rules):
            lam = cp.Variable(2, nonneg=True)
            return b @ lam + 0.3 * cp.norm1(v - A.T @ lam)

        return support

    return Relations(LpBall(math.inf, 0.3), A, b), None, same, of


def box_image(L):
    return lambda v, rules: (
        cp.pos(L[:, 0] @ v) + 0.5 * cp.pos(L[:, 1] @ v) + 0.2 * cp.neg(L[:, 1] @ v)
    )


KINDS = [
    *(f"{kind}, q={q}" for kind in ("class radii", "sample radii") for q in ("1", "2", "i")),
    "box",
    "box, sample radii",
    "box without end",
    "limits",
    "budget",
    "flips",
    "categories",
    "ellipsoid",
    "image",
    "union",
    "sum",
    "intersection",
    "relations",
]


def pair_margins(X, y, radius, of, K):
    """The margins of all pairs by cvxpy, the rules, W and b; w_0 = 0 with two classes."""
    W, b = cp.Variable((K, D)), cp.Variable(K)
    rules = [cp.sum(b) == 0]
    if K == 2:
        rules.append(W[0] == 0)
    margins = []
    for i, (x, k) in enumerate(zip(X, y, strict=True)):
        r = 1.0 if radius is None else radius[i]
        support = of(x, int(k), r)
        for rival in range(K):
            if rival != k:
                v = W[rival] - W[k]
                margins.append(b[k] - b[rival] - v @ x - support(v, rules))
    return cp.hstack(margins), rules, W


def least_risk(loss, X, y, radius, of, K):
    m, rules, _ = pair_margins(X, y, radius, of, K)
    if loss == "exponential":
        value = cp.log_sum_exp(-m) - math.log(N)
    else:
        by_sample = cp.reshape(m, (N, K - 1), order="C")
        columns = cp.hstack([np.zeros((N, 1)), -by_sample])
        value = cp.sum(cp.log_sum_exp(columns, axis=1)) / N
    problem = cp.Problem(cp.Minimize(value), rules)
    problem.solve(solver="CLARABEL", **TOL)
    return math.exp(problem.value) if loss == "exponential" else problem.value


def largest_margin(X, y, radius, of, K):
    m, rules, W = pair_margins(X, y, radius, of, K)
    problem = cp.Problem(cp.Maximize(cp.min(m)), [*rules, cp.norm(W, "fro") <= 1])
    problem.solve(solver="CLARABEL", **TOL)
    return problem.value


def one_case(kind, K, seed):
    """The errors and gaps of one random problem."""
    rng = np.random.default_rng([seed, K, KINDS.index(kind)])
    threat, radius, of_data, of = draw(kind, rng, K)
    centres = rng.normal(size=(K, D))
    y = np.arange(N) % K
    found = {}
    X = of_data(0.3 * centres[y] + rng.normal(size=(N, D)))
    loss = ("exponential", "logistic")[seed % 2]
    model = RobustLinearClassifier(threat=threat, loss=loss, tol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y, sample_radius=radius)
        if model.separable_ is False:
            expected = least_risk(loss, X, y, radius, of, K)
            found["risk"] = abs(math.exp(model.log_risk_) - expected)
            found["risk_gap"] = model.dual_gap_
        elif model.separable_ is None:
            found["open"] = 1
        X = of_data(2.5 * centres[y] + 0.3 * rng.normal(size=(N, D)))
        try:
            separator = min_norm_separator(
                X, y, p=2, threat=threat, sample_radius=radius, fit_intercept=True
            )
        except NotSeparableError:
            expected = largest_margin(X, y, radius, of, K)
            found["not_separable"] = max(expected, 0.0)
        else:
            expected = largest_margin(X, y, radius, of, K)
            found["margin"] = abs(separator.margin / expected - 1)
            found["margin_gap"] = separator.relative_gap
    return found


def attempt(kind, K, seed):
    try:
        return one_case(kind, K, seed)
    except Exception as error:  # a line of the table must not be lost
        return {"failed": f"{type(error).__name__}: {error}"[:200]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    out = os.environ.get("OUT")
    print("kind | classes | risk: cases, error, gap | margin: cases, error, gap | other")
    for kind in KINDS:
        if options.only and kind not in options.only.split(";"):
            continue
        for K in (2, 3):
            start = time.time()
            cases = Parallel(n_jobs=options.jobs)(
                delayed(attempt)(kind, K, seed) for seed in range(options.cases)
            )
            line = {"kind": kind, "classes": K, "cases": options.cases}
            for name in ("risk", "risk_gap", "margin", "margin_gap", "not_separable"):
                values = [case[name] for case in cases if name in case]
                line[name] = max(values, default=0.0)
                line[f"{name}_cases"] = len(values)
            line["open"] = sum("open" in case for case in cases)
            line["failed"] = [case["failed"] for case in cases if "failed" in case]
            line["seconds"] = round(time.time() - start, 1)
            print(
                f"{kind} | {K} | {line['risk_cases']}, {line['risk']:.0e}, {line['risk_gap']:.0e} "
                f"| {line['margin_cases']}, {line['margin']:.0e}, {line['margin_gap']:.0e} | "
                f"not separable {line['not_separable_cases']} ({line['not_separable']:.0e}), open "
                f"{line['open']}, failed {len(line['failed'])} {line['failed'][:1]}, "
                f"{line['seconds']} s",
                flush=True,
            )
            if out:
                with Path(out, "soak.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
