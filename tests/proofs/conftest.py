"""Small data with certificates of every kind, and the second checker."""

import json
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

from sklearn_robust import NotSeparableWarning, RobustLinearClassifier
from sklearn_robust.metrics import robust_accuracy_certificate
from sklearn_robust.separators import min_norm_separator

SECOND = Path(__file__).parent / "check.mjs"


def draw(n_classes, seed=0, n=12, d=4, noise=0.2):
    """Gaussian points, nearly separable, whose labels are words for three classes."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    scores = X @ rng.standard_normal((d, n_classes)) + noise * rng.standard_normal((n, n_classes))
    y = scores.argmax(axis=1)
    return X, y if n_classes == 2 else np.array(["ape", "bee", "cow"])[y]


def make_certificates():
    """Certificates of separators, fits and scores: a list of (X, y, certificate)."""
    found = []
    rng = np.random.default_rng(1)
    for n_classes in (2, 3):
        X, y = draw(n_classes)
        scale, weight = rng.uniform(0.5, 2, 4), rng.uniform(0, 2, 12) * (np.arange(12) > 0)
        for p, q in ((1, 2), (2, np.inf), (np.inf, 1)):
            separator = min_norm_separator(
                X, y, p=p, q=q, eps=0.01, fit_intercept=p != 1, scale=None if q == 2 else scale
            )
            found.append((X, y, separator.certificate))
            options = {"q_pert": q, "eps": 0.6, "fit_intercept": p != 1}
            for loss in ("exponential", "logistic"):
                model = RobustLinearClassifier(loss=loss, **options)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotSeparableWarning)
                    model.fit(X, y, weight if loss == "logistic" else None)
                found.append((X, y, model.certificate_))
            found.append((X, y, robust_accuracy_certificate(model, X, y, eps=0.1, q=q)))
    return found


@pytest.fixture(scope="session")
def certificates():
    return make_certificates()


@pytest.fixture(scope="session")
def second_checker(tmp_path_factory):
    """A function that asks the checker in JavaScript about certificates of the same data."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the second checker did not run")
    folder = tmp_path_factory.mktemp("second")

    def ask(X, y, contents):
        rows = zip(X.tolist(), y, strict=True)
        lines = [",".join([*map(repr, row), str(label)]) for row, label in rows]
        (folder / "data.csv").write_text("\n".join(lines))
        (folder / "certificates.json").write_text(json.dumps(contents))
        files = [str(folder / "data.csv"), str(folder / "certificates.json")]
        run = subprocess.run(
            [node, str(SECOND), *files], capture_output=True, text=True, check=True, timeout=120
        )
        return run.stdout.splitlines()

    return ask
