"""Robust conformal sets cover under the exact attack, and are the sets of their definition."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sklearn_robust.attacks.linear import worst_case_perturbations
from sklearn_robust.conformal import RobustConformalSets
from sklearn_robust.threats import LpBall

EPS = 0.4


def draw(n_classes, n, rng):
    centres = 1.5 * np.eye(n_classes, 4)
    y = rng.integers(0, n_classes, n)
    return centres[y] + rng.standard_normal((n, 4)), y


@pytest.mark.parametrize(("n_classes", "q", "splits"), [(2, 2, 50), (3, np.inf, 80)])
def test_sets_cover_under_the_exact_attack(n_classes, q, splits):
    rng = np.random.default_rng(0)
    model = LogisticRegression().fit(*draw(n_classes, 200, rng))
    X, y = draw(n_classes, 300, rng)
    ball = LpBall(q, EPS)
    moved = X + worst_case_perturbations(X, y, model.coef_, model.intercept_, ball)
    robust = RobustConformalSets(model, eps=EPS, q=q)
    plain = RobustConformalSets(model, eps=0.0, q=q)
    covered, clean = [], []
    for _ in range(splits):
        order = rng.permutation(len(y))
        first, last = order[:100], order[100:]
        own = np.arange(len(last)), y[last]
        covered.append(robust.conformalize(X[first], y[first]).predict_set(moved[last])[own].mean())
        if len(clean) < 20:
            plain.conformalize(X[first], y[first])
            clean.append(plain.predict_set(moved[last])[own].mean())
    # the mean over splits of the coverage is 0.9 at least, up to its own error
    assert np.mean(covered) >= 0.9 - 3 * np.std(covered) / np.sqrt(splits)
    assert np.mean(clean) < 0.85  # sets that ignore the adversary do not cover


def test_two_classes_have_the_smallest_sets():
    """A class is in the set exactly where some point of the ball conforms with it."""
    rng = np.random.default_rng(0)
    model = LogisticRegression().fit(*draw(2, 50, rng))
    sets = RobustConformalSets(model, eps=EPS).conformalize(*draw(2, 60, rng))
    X, _ = draw(2, 30, rng)
    corner = np.array(np.meshgrid(*[[-EPS, EPS]] * 4)).reshape(4, -1).T
    for x, found in zip(X, sets.predict_set(X), strict=True):
        f = model.decision_function(np.vstack([x, x + corner]))
        expected = [f.min() <= sets.threshold_, -f.max() <= sets.threshold_]
        assert found.tolist() == expected


def test_too_few_samples_give_all_classes_and_bad_levels_are_refused():
    rng = np.random.default_rng(0)
    model = LogisticRegression().fit(*draw(3, 50, rng))
    sets = RobustConformalSets(model, eps=EPS)
    with pytest.raises(ValueError, match="call conformalize first"):
        sets.predict_set(np.zeros((1, 4)))
    sets.conformalize(*draw(3, 8, rng))
    assert sets.threshold_ == np.inf
    assert sets.predict_set(np.zeros((1, 4))).all()
    for level in (0, 1, 1.5):
        with pytest.raises(ValueError, match="confidence_level"):
            RobustConformalSets(model, eps=EPS, confidence_level=level)
    with pytest.raises(ValueError, match="scale must hold a number"):
        RobustConformalSets(model, eps=EPS, scale="training")
