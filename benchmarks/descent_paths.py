"""Claims: a path costs little more than its two products with X; adaptive steps save steps. A
batch of paths is compared with its paths one by one: each moves alone, all are certified together.

Gaussian data of d = 512 features labelled by a Gaussian teacher, exponential loss, no intercept,
one thread. Seconds are those of the processor, medians over alternating runs; "products" are `X @
w` and `a @ X`, each called by itself, with k = 20 rows for a batch.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/descent_paths.py

writes benchmarks/results/descent_paths.md.
"""

import math
import time
from statistics import median

import _harness as harness  # first: it sets one thread
import numpy as np

from sklearn_robust import max_margin, min_norm_separator
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import accelerated_margin, descent_grid, steepest_descent

D, ROUNDS, LOSS = 512, 3, LOSSES["exponential"]


def seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def alternate(*runs):
    """The median seconds of each, from runs in turn."""
    for run in runs:
        run()
    return [
        median(times)
        for times in zip(*([seconds(run) for run in runs] for _ in range(ROUNDS)), strict=True)
    ]


def draw(n, dtype=np.float64):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, D))
    y = np.where(X @ rng.standard_normal(D) > 0, 1.0, -1.0)
    return X.astype(dtype), y.astype(dtype)


def problem_of(X, y, q=math.inf, eps=0.0):
    return RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=False)


def products(X, k, times):
    left, right = np.ones((k, D), X.dtype), np.ones((k, len(X)), X.dtype)
    left, right = (left[0], right[0]) if k == 1 else (left, right)

    def run():
        for _ in range(times):
            left @ X.T
            right @ X

    return run


def a_single_path():
    rows, iterations = [], 1000
    for q, p in [(math.inf, 2), (math.inf, 1), (math.inf, math.inf), (2, 2)]:
        for n in (256, 512, 1024):
            row = [f"{p:g}, {q:g}", str(n)]
            for dtype in (np.float64, np.float32):
                X, y = draw(n, dtype)
                problem = problem_of(X, y, q, 0.01 if q == math.inf else 0.1)
                both = alternate(
                    products(X, 1, iterations),
                    lambda problem=problem, p=p: steepest_descent(
                        problem, LOSS, LpNorm(p), loss_tol=0, tol=0, max_iter=iterations
                    ),
                )
                row += [f"{1e6 * t / iterations:.1f}" for t in both] + [f"{both[0] / both[1]:.0%}"]
            rows.append(row)
    head = [
        "p, q",
        "n",
        *(
            f"{name}, float{bits}"
            for bits in (64, 32)
            for name in ("products (us)", "step (us)", "rate reached")
        ),
    ]
    return ["## One path beside its two products", "", harness.table(head, rows)]


def a_batch():
    rows = []
    for p in ([2], [1], [1, 2]):
        for dtype in (np.float64, np.float32):
            X, y = draw(256, dtype)
            radii = np.linspace(
                0, 0.9 * max_margin(*draw(256), q=math.inf).margin, 20 // len(p)
            ).tolist()
            options = {"loss_tol": 1e-3, "max_iter": 500}

            def batch(X=X, y=y, p=p, radii=radii, options=options):
                return descent_grid(problem_of(X, y), LOSS, p, radii, **options)

            def singles(X=X, y=y, p=p, radii=radii, options=options):
                return [
                    steepest_descent(problem_of(X, y, eps=e), LOSS, LpNorm(one), **options)
                    for one in p
                    for e in radii
                ]

            together, alone = batch(), singles()
            away = max(abs(together.margin[i] / one.margin[0] - 1) for i, one in enumerate(alone))
            times = alternate(batch, singles, products(X, 20, 100), products(X, 1, 2000))
            rows.append(
                [
                    ", ".join(f"{e:g}" for e in p),
                    np.dtype(dtype).name,
                    *(f"{20 / t:.0f}" for t in times[:2]),
                    f"{times[1] / times[0]:.1f}x",
                    f"{times[3] / times[2]:.1f}x",
                    f"{away:.0e}",
                ]
            )
    head = [
        "p",
        "type",
        "problems/s, batch",
        "problems/s, single",
        "ratio",
        "ratio of the products",
        "largest difference of a margin",
    ]
    return ["## Twenty radii up to .9 eps*, n = 256", "", harness.table(head, rows)]


def steps_saved():
    X, y = draw(100)
    eps = max_margin(X, y, q=math.inf).margin / 2
    rows = []
    options = {"tol": 1e-3, "max_iter": 30_000}
    for p in (1, 2, math.inf):
        for method in ("paper", "adaptive", "accelerated"):
            problem = problem_of(X, y, eps=eps)
            if method == "accelerated":
                path = accelerated_margin(problem, LOSS, LpNorm(p), record_every=1, **options)
            else:
                path = steepest_descent(
                    problem,
                    LOSS,
                    LpNorm(p),
                    step_size=method,
                    loss_tol=0,
                    record_every=10,
                    **options,
                )
            gap, iteration = path.history["gap"][:, 0], path.history["iteration"]
            firsts = [
                str(iteration[np.argmax(gap <= goal)]) if (gap <= goal).any() else "-"
                for goal in (0.5, 0.1, 0.05, 0.01)
            ]
            rows.append([f"{p:g}", method, *firsts, f"{path.gap[0]:.1e}"])
    head = [
        "p",
        "step or method",
        *(f"to a gap of {goal}" for goal in (0.5, 0.1, 0.05, 0.01)),
        "gap at 30 000 steps or 1e-3",
    ]
    return ["## Steps to a certified gap, n = 100, q = inf, eps*/2", "", harness.table(head, rows)]


def the_exact_separator():
    """How many steps of the path the exact separator costs."""
    X, y = draw(100)
    eps = max_margin(X, y, q=math.inf).margin / 2
    rows = []
    for p in (1, 2, math.inf):
        problem = problem_of(X, y, eps=eps)
        exact, path = alternate(
            lambda p=p: min_norm_separator(X, y, p=p, q=math.inf, eps=eps),
            lambda p=p, problem=problem: steepest_descent(
                problem, LOSS, LpNorm(p), loss_tol=0, tol=0, max_iter=2000
            ),
        )
        gap = min_norm_separator(X, y, p=p, q=math.inf, eps=eps).relative_gap
        rows.append([f"{p:g}", f"{1e3 * exact:.1f}", f"{gap:.0e}", f"{exact / path * 2000:.0f}"])
    head = ["p", "exact separator (ms)", "its gap", "steps of the path in that time"]
    return ["## The exact separator, n = 100, q = inf, eps*/2", "", harness.table(head, rows)]


if __name__ == "__main__":
    lines = [
        "# Paths of descent\n",
        harness.machine(("numpy", "scipy")) + "\n",
        "By `benchmarks/descent_paths.py`. A path's time holds its set-up, certificates and the "
        "last proof of separability or",
        "of its opposite.\n",
    ]
    for part in (steps_saved, the_exact_separator, a_batch, a_single_path):
        lines += part()
        print("\n".join(lines), flush=True)
    harness.write("descent_paths.md", "\n".join(lines))
