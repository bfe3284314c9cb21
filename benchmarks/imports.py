"""Claim: the import is that of scikit-learn and nothing more, and the first fit costs no
compilation.

Fresh processes, medians of 5, in turns.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/imports.py
"""

import subprocess
import sys
from statistics import median

import _harness as harness

ROUNDS = 5
MODULES = (
    "numpy",
    "sklearn",
    "sklearn.linear_model",
    "sklearn_robust",
    "sklearn_robust.linear_model",
    "sklearn_robust.separators",
    "cvxpy",
    "torch",
)
FITS = {
    "scikit-learn LogisticRegression().fit": (
        "from sklearn.linear_model import LogisticRegression",
        "LogisticRegression().fit(X, y)",
    ),
    "RobustLinearClassifier(2, inf, .05).fit": (
        "from sklearn_robust import RobustLinearClassifier",
        "RobustLinearClassifier(2, np.inf, 0.05).fit(X, y)",
    ),
    "min_norm_separator, p = 2, q = inf": (
        "from sklearn_robust.separators import min_norm_separator",
        "min_norm_separator(X, y, p=2, q=np.inf, eps=0.05)",
    ),
    "min_norm_separator, p = 1, q = inf": (
        "from sklearn_robust.separators import min_norm_separator",
        "min_norm_separator(X, y, p=1, q=np.inf, eps=0.05)",
    ),
}
IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
FIT = """
import time
import numpy as np
{}
rng = np.random.default_rng(0)
X = rng.standard_normal((100, 512))
y = np.sign(X @ rng.standard_normal(512))
for _ in range(6):
    start = time.perf_counter()
    {}
    print(time.perf_counter() - start)
"""


def fresh(code: str) -> list[float]:
    """The numbers that this code prints in a new interpreter."""
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    return [float(line) for line in printed.split()]


def main() -> None:
    imports: dict[str, list[float]] = {module: [] for module in MODULES}
    fits: dict[str, list[list[float]]] = {name: [] for name in FITS}
    for _ in range(ROUNDS):
        for module, times in imports.items():
            times += fresh(IMPORT.format(module))
        for name, (statement, fit) in FITS.items():
            fits[name].append(fresh(FIT.format(statement, fit)))
    import_lines = [
        [f"`import {module}`", harness.seconds(median(times))] for module, times in imports.items()
    ]
    fit_lines = []
    for name, runs in fits.items():
        first, second = median(run[0] for run in runs), median(run[1] for run in runs)
        later = median(time for run in runs for time in run[2:])
        fit_lines.append([name, *(f"{1e3 * value:.1f}" for value in (first, second, later))])
    text = "\n".join(
        [
            "# Import and first fit\n",
            harness.machine(["numpy", "scipy", "scikit-learn", "torch", "cvxpy"]) + "\n",
            f"Fresh processes, medians of {ROUNDS}; files already in the cache of the system.\n",
            harness.table(["", "seconds"], import_lines),
            "Gaussian data, 100 x 512, with a Gaussian teacher; the modules that a fit imports "
            "late are in its first time.\n",
            harness.table(["", "first fit (ms)", "second (ms)", "third to sixth (ms)"], fit_lines),
        ]
    )
    print(text)
    harness.write("imports.md", text)


if __name__ == "__main__":
    main()
