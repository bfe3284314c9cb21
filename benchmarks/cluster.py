"""Claims: the risk of two classes is minimised, certified, in at most 15 sweeps over the data; on a
cluster of two workers of 1 GB a worker takes less than 300 MB for files of any size, less than 1 MB
moves in a sweep without the Gram matrix, two workers are at least 1.7 times faster than one, and
they take no more CPU time than dask-ml's LogisticRegression by lbfgs.

First Newton's method in sweeps on this machine: the sweeps, the survey and the certificate
included, to a certified gap of 1e-6, and the log-risk beside that of `minimise_robust_risk` on the
array. Then a fit of .npy files of 0.5 GB by two workers, processes of one thread: "down" is the
function that the tasks of a sweep are sent, "up" a sum that comes back, pickled, both the most of
all sweeps with or without a Gram matrix; the sums that workers sent to each other or to this
process are those of all sweeps; memory is the most that is resident in a worker, and after the
imports alone. Last 2e6 x 200 in float32, drawn on the workers and kept there: one worker against
two, and the same data with dask-ml, where it is installed; the median of three fits.

    python benchmarks/cluster.py [--gigabytes 1] [--samples 2e6] [--folder /tmp]

needs the gigabytes in the folder, which it removes, and 3 GB of memory for 2e6 samples. It writes
benchmarks/results/cluster.md after each part.
"""

import argparse
import pickle
import shutil
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import _harness as harness  # first: it sets one thread
import numpy as np

N, D = 20_000, 20
TOL = 1e-6
FILE_N, FILE_D = 125_000, 1000
CHUNK_N, CHUNK_D = 62_500, 200
REPEATS = 3
NOISES = {"easy": 1.0, "hard": 0.1}


class Counted:
    """An array as a source of four blocks, and how often it is read."""

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        self.X, self.y, self.readings = X, y, 0

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.readings += 1
        for at in np.array_split(np.arange(len(self.y)), 4):
            yield self.X[at], self.y[at]


# -- sweeps on this machine


def sweeps() -> Iterator[list[str]]:
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


# -- files


def write(folder: Path, n_files: int) -> Iterator[Any]:
    """The parts of a table and its labels, as the sources of them."""
    from sklearn_robust.rows import NpySource

    teacher = np.random.default_rng(0).standard_normal(FILE_D) / np.sqrt(FILE_D)
    for part in range(n_files):
        rng = np.random.default_rng([1, part])
        X = rng.standard_normal((FILE_N, FILE_D), dtype=np.float32)
        np.save(folder / f"X{part}.npy", X)
        noise = rng.standard_normal(FILE_N)
        np.save(folder / f"y{part}.npy", X @ teacher.astype(np.float32) + noise > 0)
        yield NpySource(folder / f"X{part}.npy", folder / f"y{part}.npy")


class Sweeps:
    """The sizes of what each sum over a cluster sends and brings."""

    def __init__(self) -> None:
        self.down: list[int] = []
        self.up: list[int] = []

    def __enter__(self) -> "Sweeps":
        from sklearn_robust.distributed import DaskReduction

        self.total = total = DaskReduction.total

        def measured(reduction: DaskReduction, function: Any) -> Any:
            found = total(reduction, function)
            self.down.append(len(pickle.dumps(function)))
            self.up.append(len(pickle.dumps(found)))
            return found

        DaskReduction.total = measured  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *error: object) -> None:
        from sklearn_robust.distributed import DaskReduction

        DaskReduction.total = self.total  # type: ignore[method-assign]


def resident() -> int:
    """The most memory that this process has had resident, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def sent(dask_worker: Any) -> int:
    """How often a worker has sent sums, to another or to this process."""
    return int(dask_worker.transfer_outgoing_count_total)


def of_files(sources: list[Any]) -> dict[str, str]:
    """The figures of a fit of files by two workers of 1 GB."""
    from distributed import Client, LocalCluster

    from sklearn_robust.distributed import RobustLinearClassifier

    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "1GB"}
    with LocalCluster(**options, dashboard_address=":0") as cluster, Client(cluster) as client:
        client.run(imports)
        imported = max(client.run(resident).values())
        began = time.perf_counter()
        with Sweeps() as moved:
            model = RobustLinearClassifier(eps=0.01, loss="logistic").fit(sources)
        seconds = time.perf_counter() - began
        memory = max(client.run(resident).values())
        n_sent = sum(client.run(sent).values())
    gram = model.coef_.size**2 * 8 / 4  # bytes, of a quarter of all columns at least
    up = {kind: [size for size in moved.up if (size > gram) is kind] for kind in (True, False)}
    return {
        "sweeps": f"{len(moved.up)}",
        "of them with a Gram matrix": f"{len(up[True])}",
        "gap": f"{model.dual_gap_:.0e}",
        "columns in use": f"{np.count_nonzero(model.coef_)}",
        "down, kB": f"{max(moved.down) / 1e3:.0f}",
        "up without, kB": f"{max(up[False]) / 1e3:.0f}",
        "up with, kB": f"{max(up[True], default=0) / 1e3:.0f}",
        "sums sent by workers": f"{n_sent}",
        "worker with imports, MB": f"{imported / 1e6:.0f}",
        "worker, MB": f"{memory / 1e6:.0f}",
        "seconds": f"{seconds:.0f}",
    }


def imports() -> None:
    """What a worker imports for a task."""
    import sklearn_robust.distributed.reduction
    import sklearn_robust.solvers  # noqa: F401


# -- one worker against two


def drawn(part: int) -> np.ndarray:
    """A chunk of samples, with the label as its last column."""
    rng = np.random.default_rng([2, part])
    chunk = rng.standard_normal((CHUNK_N, CHUNK_D + 1), dtype=np.float32)
    teacher = np.random.default_rng(0).standard_normal(CHUNK_D).astype(np.float32)
    scores = chunk[:, :-1] @ teacher / np.sqrt(np.float32(CHUNK_D))
    chunk[:, -1] = scores + chunk[:, -1] > 0
    return chunk


def kept(client: Any, n: float) -> tuple[Any, Any]:
    """X and y as dask arrays in the memory of the workers."""
    import dask
    import dask.array as da
    from distributed import wait

    n_parts = round(n / CHUNK_N)
    shape = (CHUNK_N, CHUNK_D + 1)
    parts = [dask.delayed(drawn)(part) for part in range(n_parts)]
    Z = da.concatenate([da.from_delayed(part, shape, np.float32) for part in parts])
    X, y = client.persist([Z[:, :-1].map_blocks(np.ascontiguousarray), Z[:, -1].astype(np.int8)])
    wait([X, y])
    return X, y


def of_workers(n: float) -> Iterator[list[str]]:
    """Times of fits by one worker, by two, and of dask-ml by two; medians."""
    from distributed import Client, LocalCluster

    for n_workers in (1, 2):
        options = {"n_workers": n_workers, "threads_per_worker": 1, "memory_limit": 0}
        with LocalCluster(**options, dashboard_address=":0") as cluster, Client(cluster) as client:
            X, y = kept(client, n)
            client.run(imports)
            for name, fit in fits(X, y):
                runs = []
                for _ in range(REPEATS):
                    cpu = client.run(time.process_time)
                    began = time.perf_counter()
                    found = fit()
                    seconds = time.perf_counter() - began
                    cpu = sum(client.run(time.process_time).values()) - sum(cpu.values())
                    runs.append((seconds, cpu))
                seconds, cpu = (median(column) for column in zip(*runs, strict=True))
                print(name, n_workers, runs, found, flush=True)
                yield [name, f"{n_workers}", f"{seconds:.1f}", f"{cpu:.1f}", *found]


def fits(X: Any, y: Any) -> Iterator[tuple[str, Any]]:
    """The names of fits and functions that do them, with the sweeps and gap of ours."""
    from sklearn_robust.distributed import RobustLinearClassifier

    def ours() -> list[str]:
        with Sweeps() as moved:
            model = RobustLinearClassifier(eps=0.01, loss="logistic", tol=TOL).fit(X, y)
        return [f"{len(moved.up)}", f"{model.dual_gap_:.0e}"]

    yield "sklearn_robust, q = inf", ours
    try:
        from dask_ml.linear_model import LogisticRegression
    except ImportError:
        return

    def theirs() -> list[str]:
        LogisticRegression(solver="lbfgs", C=1.0).fit(X, y)
        return ["", "no certificate"]

    yield "dask-ml, lbfgs", theirs


def main() -> None:
    """Each part, and the file of those that are done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--samples", type=float, default=2e6)
    parser.add_argument("--folder")
    asked = parser.parse_args()
    machine = harness.machine(("numpy", "scipy", "scikit-learn", "dask", "distributed"))
    text = ["# Sums over blocks, here and on a cluster\n", machine + "\n"]

    def add(sentence: str, head: list[str], rows: list[list[str]]) -> None:
        text.extend([sentence, harness.table(head, rows)])
        harness.write("cluster.md", "\n".join(text))

    head = ["q", "loss", "data", "sweeps", "gap", "log-risk", "by sums, s", "array, s"]
    add(
        f"By `benchmarks/cluster.py`. n = {N}, d = {D}, eps = 0.02, certified gap {TOL:g}; "
        "sweeps with the survey and the certificate; the difference of the log-risks; CPU time:\n",
        head,
        list(sweeps()),
    )
    if asked.gigabytes:
        folder = Path(tempfile.mkdtemp(dir=asked.folder))
        n_files = max(2, round(asked.gigabytes * 1e9 / (4 * FILE_N * FILE_D)))
        try:
            found = of_files(list(write(folder, n_files)))
            print(found, flush=True)
        finally:
            shutil.rmtree(folder)
        add(
            f"A fit of {n_files} .npy files, together {n_files * FILE_N} x {FILE_D} float32, by "
            "two workers of 1 GB; q = inf, eps = 0.01, logistic loss:\n",
            list(found),
            [list(found.values())],
        )
    if asked.samples:
        add(
            f"{asked.samples:g} x {CHUNK_D} float32 in the memory of the workers, logistic loss, "
            f"gap {TOL:g}; medians of {REPEATS} fits, CPU time of all workers:\n",
            ["fit", "workers", "seconds", "CPU, s", "sweeps", "gap"],
            list(of_workers(asked.samples)),
        )


if __name__ == "__main__":
    main()
