"""Searches in other processes: joblib's backends loky and dask."""

import contextlib

import numpy as np
import pytest
from joblib import parallel_config
from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV

from sklearn_robust import RobustLinearClassifier, RobustLinearClassifierCV, make_robust_scorer

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def loky(request):
    try:
        with parallel_config("loky", n_jobs=2):
            yield
    finally:  # no process outlives its test
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextlib.contextmanager
def dask(request):
    request.getfixturevalue("dask_client")
    with parallel_config("dask"):
        yield


@pytest.mark.parametrize("backend", [loky, dask])
def test_searches_elsewhere_choose_as_here(request, backend):
    X, y = load_wine(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    grid = {"eps": [0.3, 0.6]}
    plain = RobustLinearClassifier(loss="logistic")
    own = RobustLinearClassifierCV(2, eps=[0.3, 0.6], threat_eps=0.4, cv=2, loss="logistic")
    search = GridSearchCV(plain, grid, scoring=make_robust_scorer(eps=0.4), cv=2)
    here = [model.fit(X, y).cv_results_["mean_test_score"] for model in (own, search)]
    with backend(request):
        there = [model.fit(X, y).cv_results_["mean_test_score"] for model in (own, search)]
    np.testing.assert_array_equal(here, there)
