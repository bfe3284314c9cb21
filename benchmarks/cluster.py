"""Claims: the risk of two classes is minimised, certified, in at most 15 sweeps over the data; on a
cluster a worker needs a block of the file, and less than 1 MB moves in a sweep without the Gram
matrix, whatever the number of samples.

First Newton's method in sweeps on this machine: the sweeps, the survey and the certificate
included, to a certified gap of 1e-6, and the log-risk beside that of `minimise_robust_risk` on the
array. Then a fit of .npy files of 1 GB by two workers of 500 MB each, processes of one thread:
"down" is the function that a task is sent, "up" a sum that comes back, pickled; memory is the most
that is resident in a worker.

    python benchmarks/cluster.py [folder]

needs 1 GB in the folder, which it removes, and writes benchmarks/results/cluster.md.
"""

import pickle
import shutil
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import _harness as harness  # first: it sets one thread
import numpy as np

N, D = 20_000, 20
TOL = 1e-6
FILES, FILE_N, FILE_D = 8, 31_250, 1000
NOISES = {"easy": 1.0, "hard": 0.1}


class Counted:
    """An array as a source of four blocks, and how often it is read."""

    def __init__(self, X, y):
        self.X, self.y, self.readings = X, y, 0

    def blocks(self):
        self.readings += 1
        for at in np.array_split(np.arange(len(self.y)), 4):
            yield self.X[at], self.y[at]


def sweeps():
    """The table of Newton's method on this machine."""
    from sklearn_robust.losses import LOSSES
    from sklearn_robust.norms import LpNorm
    from sklearn_robust.problems import RobustProblem
    from sklearn_robust.rows import LocalReduction, Survey
    from sklearn_robust.solvers import minimise_robust_risk, minimise_summed_risk
    from sklearn_robust.summed import SummedProblem
    from sklearn_robust.threats import LpBall

    rng = np.random.default_rng(0)
    X, teacher = rng.standard_normal((N, D)), rng.standard_normal(D) / np.sqrt(D)
    for q, name, kind in product((1, 2, np.inf), LOSSES, NOISES):
        y = np.where(X @ teacher + NOISES[kind] * rng.standard_normal(N) > 0, 1.0, -1.0)
        source = Counted(X, y)
        reduction = LocalReduction(source)
        began = time.process_time()
        problem = SummedProblem.of(
            reduction,
            reduction.total(Survey.of),
            LpBall(q, 0.02),
            classes=np.array([-1.0, 1.0]),
            factors=np.ones(2),
            fit_intercept=True,
        )
        found = minimise_summed_risk(problem, LOSSES[name], LpNorm(2), tol=TOL)
        by_sums = time.process_time() - began
        began = time.process_time()
        whole = RobustProblem.from_data(X, y, q=q, eps=0.02, fit_intercept=True)
        expected = minimise_robust_risk(whole, LOSSES[name], LpNorm(2), tol=TOL)
        of_array = time.process_time() - began
        difference = abs(found.log_risk - float(expected.log_risk[0]))
        figures = [f"{source.readings}", f"{found.gap:.0e}", f"{difference:.0e}"]
        yield [f"{q:g}", name, kind, *figures, f"{by_sums:.2f}", f"{of_array:.2f}"]


def write(folder):
    """The parts of a table and its labels, as the sources of them."""
    from sklearn_robust.rows import NpySource

    teacher = np.random.default_rng(0).standard_normal(FILE_D) / np.sqrt(FILE_D)
    for part in range(FILES):
        rng = np.random.default_rng([1, part])
        X = rng.standard_normal((FILE_N, FILE_D), dtype=np.float32)
        np.save(folder / f"X{part}.npy", X)
        noise = rng.standard_normal(FILE_N)
        np.save(folder / f"y{part}.npy", X @ teacher.astype(np.float32) + noise > 0)
        yield NpySource(folder / f"X{part}.npy", folder / f"y{part}.npy")


def resident():
    """The most memory that this process has had resident, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def on_a_cluster(folder):
    """The figures of a fit of files by two workers."""
    from distributed import Client, LocalCluster

    from sklearn_robust.distributed import DaskReduction, RobustLinearClassifier

    sources = list(write(folder))
    moved = []
    total = DaskReduction.total

    def measured(self, function):
        found = total(self, function)
        moved.append((len(pickle.dumps(function)), len(pickle.dumps(found))))
        return found

    DaskReduction.total = measured
    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "500MB"}
    with LocalCluster(**options, dashboard_address=":0") as cluster, Client(cluster) as client:
        at_rest = max(client.run(resident).values())
        began = time.perf_counter()
        model = RobustLinearClassifier(eps=0.01, loss="logistic").fit(sources)
        seconds = time.perf_counter() - began
        memory = max(client.run(resident).values())
    down, up = (max(sizes) / 1e3 for sizes in zip(*moved, strict=True))
    return {
        "sweeps": f"{len(moved)}",
        "gap": f"{model.dual_gap_:.0e}",
        "columns in use": f"{np.count_nonzero(model.coef_)}",
        "down, kB": f"{down:.0f}",
        "up, kB": f"{up:.0f}",
        "worker at rest, MB": f"{at_rest / 1e6:.0f}",
        "worker, MB": f"{memory / 1e6:.0f}",
        "seconds": f"{seconds:.0f}",
    }


def main():
    """Both tables."""
    folder = Path(tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None))
    machine = harness.machine(("numpy", "scipy", "scikit-learn", "dask", "distributed"))
    table = []
    for line in sweeps():
        table.append(line)
        print(*line, flush=True)
    try:
        cluster = on_a_cluster(folder)
    finally:
        shutil.rmtree(folder)
    print(cluster)
    head = ["q", "loss", "data", "sweeps", "gap", "log-risk", "by sums, s", "array, s"]
    lines = [
        "# Sums over blocks, here and on a cluster\n",
        machine + "\n",
        f"By `benchmarks/cluster.py`. n = {N}, d = {D}, eps = 0.02, certified gap {TOL:g}; "
        "sweeps with the survey and the certificate; the difference of the log-risks; CPU time:\n",
        harness.table(head, table),
        f"A fit of {FILES} .npy files, together {FILES * FILE_N} x {FILE_D} float32, by two "
        "workers of 500 MB; q = inf, eps = 0.01, logistic loss:\n",
        harness.table(list(cluster), [list(cluster.values())]),
    ]
    harness.write("cluster.md", "\n".join(lines))


if __name__ == "__main__":
    main()
