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
from sklearn_robust.separators import max_margin, min_norm_separator
from sklearn_robust.threats import Box, FeatureBudget, LpBall

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
        found.append((X, y, max_margin(X, y, q=1, scale=scale, fit_intercept=True).certificate))
    return found + of_other_sets()


def of_other_sets():
    """Certificates against boxes, budgets, limits and radii of classes and samples."""
    X, y = draw(2)
    X = (X - X.min(axis=0)) / np.ptp(X, axis=0)
    found, radius = [], np.linspace(0, 2, len(y))
    noisy, radii = np.where(np.arange(len(y)) < 3, 1 - y, y), {0: 0.02, 1: 0.05}
    for threat, factors in (
        (Box([-0.1, -0.02, 0, 0], [0.02, 0, 0.1, 0.2], clip=(0, 1)), None),
        (LpBall(np.inf, 0.05, clip=(0, 1)), radius),
        (LpBall(2, radii), None),
        (FeatureBudget(2, eps=[0.1, 0.2, 0.1, 0.3]), radius),
    ):
        model = RobustLinearClassifier(threat=threat, loss="logistic")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotSeparableWarning)
            model.fit(X, noisy, sample_radius=factors)
        found.append((X, noisy, model.certificate_))
        accuracy = robust_accuracy_certificate(model, X, y, threat=threat, sample_radius=factors)
        found.append((X, y, accuracy))
    for threat in (Box(0, 0.01).only(1), FeatureBudget(2, eps=0.01)):
        separator = min_norm_separator(X, y, p=2, threat=threat, fit_intercept=True)
        found.append((X, y, separator.certificate))
    factor = max_margin(X, y, threat=LpBall(2, radii), fit_intercept=True)
    flip = FeatureBudget(1, eps=[1, 0, 0, 0], binary=True)
    flips = robust_accuracy_certificate(model, X.round(), y, threat=flip)
    found += [(X, y, factor.certificate), (X.round(), y, flips)]
    # several classes whose samples differ in their sets
    X, y = draw(3)
    separator = min_norm_separator(X, y, p=2, threat=Box(-0.01, 0.02), fit_intercept=True)
    found.append((X, y, separator.certificate))
    y = np.where(np.arange(len(y)) < 3, np.roll(y, 1), y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotSeparableWarning)
        model = RobustLinearClassifier(eps=0.05).fit(X, y, sample_radius=radius)
    return [*found, (X, y, model.certificate_)]


@pytest.fixture(scope="session")
def certificates():
    return make_certificates()


@pytest.fixture(scope="session")
def second_checker(tmp_path_factory):
    """A function that asks the checker in JavaScript."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the second checker did not run")
    folder = tmp_path_factory.mktemp("second")

    def ask(cases):
        """The verdicts on (X, y, content), in their order."""
        files = []
        for X, y, content in cases:
            lines = [
                ",".join([*map(repr, row), str(label)])
                for row, label in zip(X.tolist(), y, strict=True)
            ]
            files.append({"data": "\n".join(lines), "certificates": [content]})
        (folder / "files.json").write_text(json.dumps(files))
        run = subprocess.run(
            [node, str(SECOND), str(folder / "files.json")],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return run.stdout.splitlines()

    return ask
