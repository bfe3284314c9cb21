"""How the linear classifiers read their data."""

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

from sklearn_robust import RobustDiagonalNet, RobustLinearClassifier


def test_a_search_over_an_array_of_booleans(gaussian):
    X, y = gaussian(40, 5, noise=1.0)
    search = GridSearchCV(
        RobustLinearClassifier(),
        {"fit_intercept": np.array([True, False])},
        cv=2,
        error_score="raise",
    )
    best = search.fit(X, y).best_estimator_
    again = RobustLinearClassifier(fit_intercept=bool(best.fit_intercept)).fit(X, y)
    np.testing.assert_array_equal(best.coef_, again.coef_)


@pytest.mark.parametrize(
    "estimator", [RobustLinearClassifier(), RobustDiagonalNet()], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("value", [-1, np.nan, np.inf, "many"])
def test_bad_class_weights_are_refused(estimator, value):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(
        ValueError, match=f"class_weight\\[1\\] must be a finite number >= 0, got '?{value}"
    ):
        estimator.set_params(class_weight={0: 1, 1: value, 2: 1}).fit(X, y)
