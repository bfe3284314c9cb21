"""Large arrays are scored slice by slice."""

import numpy as np
import pandas
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import RobustMLPClassifier, robust_accuracy_score
from sklearn_robust.metrics import _slices

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((50, 3)), np.array(list("abc"))[np.arange(50) % 3]
X[:, 0] += np.arange(50) % 3
WEIGHT = np.where(np.arange(50) < 16, 0, rng.uniform(size=50))  # the first two slices have none


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array, pandas.DataFrame])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_slices_have_the_score_of_all_samples(monkeypatch, convert, weight):
    model = make_pipeline(StandardScaler(with_mean=False), LogisticRegression())
    model.fit(convert(X), Y)
    given = {"eps": 0.1, "space": "input", "sample_weight": weight}
    expected = robust_accuracy_score(model, convert(X), Y, **given)
    monkeypatch.setattr(_slices, "_SLICE", 8)
    assert robust_accuracy_score(model, convert(X), Y, **given) == pytest.approx(expected)


def test_errors_are_those_of_all_samples(monkeypatch):
    monkeypatch.setattr(_slices, "_SLICE", 8)
    model = LogisticRegression().fit(X, Y)
    for weight, message in (
        (np.zeros(50), "must not be all zero"),
        (-np.ones(50), "Negative values"),
        (np.ones(49), "inconsistent numbers of samples"),
    ):
        with pytest.raises(ValueError, match=message):
            robust_accuracy_score(model, X, Y, eps=0.1, sample_weight=weight)


def test_attacks_on_networks_see_all_samples(monkeypatch):
    network = RobustMLPClassifier((2,), loss_tol=10, random_state=0).fit(X, Y)
    monkeypatch.setattr(_slices, "_SLICE", 8)
    monkeypatch.setattr(_slices, "_safe_indexing", lambda *args: pytest.fail("X was cut"))
    assert robust_accuracy_score(network, X, Y, eps=0.1) == network.robust_score(X, Y, eps=0.1)
