"""Claims: a classifier is trained on, and scored with, a file of 4 GB in 500 MB of memory, with a
certificate; the memory is that of some numbers a sample and of one block of the file.

Gaussian features in single precision in X.npy, labels of a Gaussian teacher with noise: not
robustly separable. Each fit is a process of its own with one thread; "memory" is the most that is
resident in it, the library and NumPy themselves included. "Readings" are those of the whole file.

    python benchmarks/rows_in_files.py [folder]

needs 4 GB in the folder, which it removes, and writes benchmarks/results/rows_in_files.md.
"""

import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import _harness as harness  # first: it sets one thread
import numpy as np

N, D, LENGTH = 1_000_000, 1000, 10_000
SETTINGS = [("logistic", np.inf, 0.003), ("exponential", np.inf, 0.003), ("logistic", 2, 0.05)]
UNITS = {
    "gap": ".1e",
    "readings": "d",
    "seconds": ".0f",
    "processor seconds": ".0f",
    "memory, MB": ".0f",
    "robust accuracy": ".3f",
}


def write(folder):
    """X.npy and y.npy, block by block."""
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal(D).astype(np.float32) / np.sqrt(D)
    labels = []
    with (folder / "X.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (N, D)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(0, N, LENGTH):
            X = rng.standard_normal((LENGTH, D), dtype=np.float32)
            X.tofile(file)
            labels.append(X @ teacher + rng.standard_normal(LENGTH) > 0)
    np.save(folder / "y.npy", np.concatenate(labels).astype(np.int8))


def resident():
    """The most memory that this process has had resident, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def fit_and_score(folder, loss, q, eps):
    """The figures of one fit, and of the score of its data."""
    from sklearn_robust import RobustLinearClassifier
    from sklearn_robust.rows import NpyRows

    class Counted(NpyRows):
        readings = 0

        def blocks(self):
            self.readings += 1
            return super().blocks()

    began = time.perf_counter(), time.process_time()
    rows = Counted(folder / "X.npy", folder / "y.npy")
    model = RobustLinearClassifier(q_pert=q, eps=eps, loss=loss).fit(rows)
    seconds = time.perf_counter() - began[0], time.process_time() - began[1]
    readings = rows.readings
    score = model.robust_score(rows)
    return {
        "gap": model.dual_gap_,
        "readings": readings,
        "seconds": seconds[0],
        "processor seconds": seconds[1],
        "memory, MB": resident() / 1e6,
        "robust accuracy": score,
    }


def main():
    """Write the file, fit, write the table."""
    folder = Path(tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None))
    lines = [
        "# Rows in a file of 4 GB\n",
        harness.machine(("numpy", "scipy", "scikit-learn")) + "\n",
        f"By `benchmarks/rows_in_files.py`: n = {N}, d = {D}, float32.\n",
    ]
    head = ["loss", "q", "eps", *UNITS]
    table = []
    try:
        write(folder)
        for loss, q, eps in SETTINGS:
            # a process for each fit, whose memory is its own
            spawn = get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as process:
                figures = process.submit(fit_and_score, folder, loss, q, eps).result()
            found = [format(figures[name], unit) for name, unit in UNITS.items()]
            table.append([loss, f"{q:g}", f"{eps:g}", *found])
            print(*table[-1], flush=True)
    finally:
        shutil.rmtree(folder)
    harness.write("rows_in_files.md", "\n".join([*lines, harness.table(head, table)]))


if __name__ == "__main__":
    main()
