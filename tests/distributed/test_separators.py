"""Exact separators and scores of dask collections and of lists of sources."""

import numpy as np
import pandas
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from sklearn_robust import max_margin, metrics, min_norm_separator, robust_accuracy_score
from sklearn_robust.separators import NotSeparableError

da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
distributed = pytest.importorskip("sklearn_robust.distributed")
INF = np.inf


class Source:
    """Some of the rows of an array, two blocks of them."""

    def __init__(self, *parts):
        self.parts = parts

    def __repr__(self):
        return f"Source of {len(self.parts[0])} rows"

    def blocks(self):
        half = len(self.parts[1]) // 2
        for at in (slice(0, half), slice(half, None)):
            yield tuple(part[at] for part in self.parts)


def teacher(n=300, d=5):
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(n, d)), np.ones(d)
    y = np.where(X @ w > 0, "up", "down")
    return X + 0.5 * np.outer(np.where(y == "up", 1, -1), w) / (w @ w), y


def frame(X, y):
    return dd.from_pandas(pandas.DataFrame(X, columns=list("abcde")).assign(label=y), npartitions=3)


FORMS = {
    "array": lambda X, y: (da.from_array(X, chunks=(150, 2)), da.from_array(y, chunks=100)),
    "sparse": lambda X, y: (
        da.from_array(X, chunks=(150, 5)).map_blocks(sparse.csr_array),
        da.from_array(y, chunks=150),
    ),
    "frame": lambda X, y: (frame(X, y)[list("abcde")], frame(X, y)["label"]),
    "sources": lambda X, y: ([Source(X[:100], y[:100]), Source(X[100:], y[100:])], None),
}


def test_separators_are_those_of_one_machine(dask_client):
    X, y = teacher()
    shared = {"q": INF, "eps": 0.02, "fit_intercept": True}
    found = distributed.min_norm_separator(*FORMS["frame"](X, y), p=2, **shared)
    expected = min_norm_separator(X, np.where(y == "up", 1, -1), p=2, **shared)
    assert found.relative_gap <= 1e-8
    assert found.margin == pytest.approx(expected.margin, rel=1e-7)
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-4)
    assert len(found.dual_coef) == len(found.X) == len(found.y) < 150


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_those_of_one_machine(dask_client, form):
    X, y = teacher()
    parts = FORMS[form](X, y)
    model = LogisticRegression(C=0.1).fit(X, y)
    assert distributed.robust_accuracy_score(model, *parts, eps=0.2) == pytest.approx(
        robust_accuracy_score(model, X, y, eps=0.2)
    )
    radii = distributed.certified_radius(model, *parts, q=2).compute()
    np.testing.assert_allclose(radii, metrics.certified_radius(model, X, y, q=2))


def test_several_classes_are_those_of_one_machine(dask_client):
    X, _ = teacher(90, 3)
    y = np.array(["ash", "beech", "cedar"])[X[:, :3].argmax(axis=1)]
    X[:, :3] += 0.5 * (y[:, None] == ["ash", "beech", "cedar"])
    arrays = da.from_array(X, chunks=(30, 3)), da.from_array(y, chunks=30)
    found = distributed.min_norm_separator(*arrays, p=2, q=INF, eps=0.02)
    expected = min_norm_separator(X, y, p=2, q=INF, eps=0.02)
    assert found.relative_gap <= 1e-8
    assert found.margin == pytest.approx(expected.margin, rel=1e-7)
    assert found.dual_coef.shape == (3, len(found.y))
    star = distributed.max_margin(*arrays, q=INF)
    assert star.margin == pytest.approx(max_margin(X, y, q=INF).margin, rel=1e-7)
    model = LogisticRegression(C=0.1).fit(X, y)
    score = distributed.robust_accuracy_score(model, *arrays, eps=0.2)
    assert score == pytest.approx(robust_accuracy_score(model, X, y, eps=0.2))
    radii = distributed.certified_radius(model, *arrays, q=2).compute(scheduler="sync")
    np.testing.assert_allclose(radii, metrics.certified_radius(model, X, y, q=2))


def test_the_largest_margin_is_that_of_one_machine(dask_client):
    X, y = teacher()
    found = distributed.max_margin(*FORMS["sources"](X, y), q=2, fit_intercept=True)
    expected = max_margin(X, y, q=2, fit_intercept=True)
    assert found.margin == pytest.approx(expected.margin, rel=1e-7)


def test_weights_count_and_predicted_classes_have_radii(dask_client):
    X, y = teacher()
    weight = np.repeat([0.0, 1, 2], 100)
    model = LogisticRegression(C=0.1).fit(X, y)
    arrays = [da.from_array(part, chunks=(100, *part.shape[1:])) for part in (X, y, weight)]
    score = distributed.robust_accuracy_score(model, *arrays[:2], sample_weight=arrays[2], eps=0.2)
    assert score == pytest.approx(robust_accuracy_score(model, X, y, sample_weight=weight, eps=0.2))
    radii = distributed.certified_radius(model, arrays[0], q=2)
    assert radii.shape == (300,)
    np.testing.assert_allclose(radii.compute(), metrics.certified_radius(model, X, q=2))
    with pytest.raises(ValueError, match="all zero"):
        distributed.robust_accuracy_score(model, *arrays[:2], sample_weight=0 * arrays[2], eps=0)


def test_what_nothing_separates_says_so(dask_client):
    X, y = teacher()
    y[X.sum(axis=1).argmax()] = "down"
    arrays = da.from_array(X, chunks=(100, 5)), da.from_array(y, chunks=100)
    with pytest.raises(NotSeparableError):
        distributed.min_norm_separator(*arrays, p=2, q=2, eps=0.3, fit_intercept=True)
    star = distributed.max_margin(*arrays, q=2, fit_intercept=True)
    assert star.margin == 0
    assert not star.coef.any()
    assert star.relative_gap <= 1e-8


def test_errors_name_the_remedy_and_the_chunk(dask_client):
    X, y = teacher()
    arrays = da.from_array(X, chunks=(100, 5)), da.from_array(y, chunks=100)
    with pytest.raises(ValueError, match=r"eps, the radius .* must be given"):
        distributed.robust_accuracy_score(LogisticRegression(), *arrays)
    one = da.from_array(np.repeat("a", 300), chunks=100)
    with pytest.raises(ValueError, match=r"two classes or more .* got \['a'\]"):
        distributed.max_margin(arrays[0], one, q=2)
    X[150, 1] = np.nan
    broken = da.from_array(X, chunks=(100, 5))
    with pytest.raises(ValueError, match=r"chunk 1 of X \(rows 100 to 199\) holds nan"):
        distributed.min_norm_separator(broken, arrays[1], p=2, q=2, eps=0)
