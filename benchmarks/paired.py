"""No race: the minimiser of the robust risk in this tree beside the one at another revision.

One process for each, asked in turns for the same cell, so that both meet the same load; CPU time of
one thread, and the median of the paired ratios. The cells are those of `robust_risk.py`, and of the
data of `whole_fits.py`: other sizes, ill-conditioned, with a mean, sparse, in single precision.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/paired.py REVISION [--rounds 5]
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import _harness as harness  # first: it sets one thread
import numpy as np
import robust_risk
import whole_fits

from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import minimise_robust_risk

TOL = 1e-6
OTHERS = list(whole_fits.DATA)[1:4] + list(whole_fits.DATA)[5:]
HEADER = ["data", "q", "loss", "eps", "before, ms", "after, ms", "after / before"]
HEADER += ["iterations", "certified gap"]


def data(name: str) -> tuple[Any, np.ndarray]:
    """Rows and labels in {-1, 1}."""
    if name in robust_risk.DATA:
        return robust_risk.DATA[name]()
    X, y = whole_fits.DATA[name]()
    return X, np.where(y > 0, 1, -1).astype(X.dtype)


def cells() -> list[tuple[str, float, str, float]]:
    """Data, q, loss and radius of each cell."""
    radii = dict.fromkeys(robust_risk.DATA, robust_risk.RADII)
    radii |= {name: {q: (eps,) for q, eps in whole_fits.RADII.items()} for name in OTHERS}
    return [
        (name, q, loss, eps)
        for name, by_q in radii.items()
        for q, several in by_q.items()
        for loss in LOSSES
        for eps in several
    ]


def work() -> None:
    """Answer requests for cells with CPU time, gap, iterations, and whether none separates."""
    held: dict[str, Any] = {}
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        name, q, loss, eps = json.loads(line)
        if name not in held:
            held = {name: data(name)}
        X, y = held[name]
        problem = RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=True)
        start = time.process_time()
        found = minimise_robust_risk(problem, LOSSES[loss], LpNorm(2), tol=TOL)
        seconds = time.process_time() - start
        figures = float(found.gap[0]), int(found.n_iter[0]), found.separable[0] is False
        print(json.dumps([seconds, *figures]), flush=True)


def worker(tree: Path) -> subprocess.Popen[str]:
    """A process that imports the package from this tree."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


def ask(process: subprocess.Popen[str], cell: tuple[str, float, str, float]) -> list[Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    print(json.dumps(cell), file=process.stdin, flush=True)
    return list(json.loads(process.stdout.readline()))


def row(processes: list[subprocess.Popen[str]], cell: Any, rounds: int) -> list[str] | None:
    """A row of the table; None where the data are separable."""
    if not all(ask(process, cell)[3] for process in processes):
        return None
    answers = [[ask(process, cell) for process in processes] for _ in range(rounds)]
    before, after = (1e3 * median(pair[i][0] for pair in answers) for i in (0, 1))
    ratio = median(pair[1][0] / pair[0][0] for pair in answers)
    name, q, loss, eps = cell
    iterations, gaps = ([pair[i] for pair in answers[-1]] for i in (2, 1))
    return [
        name,
        f"{q:g}",
        loss,
        f"{eps:g}",
        f"{before:.1f}",
        f"{after:.1f}",
        f"{ratio:.2f}" if ratio <= 1 else harness.bold(f"{ratio:.2f}"),
        f"{iterations[0]}, {iterations[1]}",
        f"{max(gaps[0], 0):.0e}, {max(gaps[1], 0):.0e}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", nargs="?", default="HEAD", help="a commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work()
    here = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(here)]
    machine = harness.machine(("numpy", "scipy"))
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        subprocess.run([*git, "worktree", "add", "--detach", tree, options.revision], check=True)
        try:
            processes = [worker(tree), worker(here)]
            rows = []
            for cell in cells():
                found = row(processes, cell, options.rounds)
                if found is not None:
                    rows.append(found)
                    print(" | ".join(found), flush=True)
            for process in processes:
                process.kill()
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", tree], check=True)
    ratios = [float(entries[6].strip("*")) for entries in rows]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    text = [
        "# The minimiser of the robust risk beside the one before\n",
        machine + "\n",
        f"By `benchmarks/paired.py {options.revision}`: CPU time to a certified {TOL:g} of two "
        f"processes in turns, medians of {options.rounds} rounds, and of the ratios in a round.",
        f"Geometric mean of the ratios {mean:.2f}, median {median(ratios):.2f}; bold: slower.\n",
        harness.table(HEADER, rows),
    ]
    harness.write("paired.md", "\n".join(text))


if __name__ == "__main__":
    main()
