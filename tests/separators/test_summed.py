"""Exact separators of samples in blocks, which are known by sums, against those of arrays."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust.certificates import certify
from sklearn_robust.norms import LpNorm
from sklearn_robust.rows import BlockRows
from sklearn_robust.separators import NotSeparableError, max_margin, min_norm_separator
from sklearn_robust.separators.summed import (
    largest_summed_distance,
    problem_of_rows,
    separate_sums,
)

INF = np.inf
ORDER = np.random.default_rng(7)


def teacher(n=600, d=6, seed=0, margin=0.5):
    rng = np.random.default_rng(seed)
    X, w = rng.normal(size=(n, d)), np.ones(d)
    y = np.sign(X @ w).astype(int)
    return X + margin * np.outer(y, w) / (w @ w), y


def assert_same(found, expected, problem):
    certified = found.certified
    assert certified.gap <= 1e-8
    assert certified.margin == pytest.approx(expected.margin, rel=1e-7)
    scale = np.linalg.norm(expected.coef)
    np.testing.assert_allclose(certified.coef / scale, expected.coef / scale, atol=1e-4)
    # the few samples that it holds prove the bound
    bound = certify(
        problem_of_rows(problem, found.rows),
        LpNorm(expected.p),
        certified.coef[None],
        certified.weights[None],
    ).bound
    assert bound[0] == pytest.approx(certified.bound, rel=1e-9)


@pytest.mark.parametrize("convert", [np.asarray, np.float32, sparse.csr_array])
@pytest.mark.parametrize(
    ("p", "q", "fit_intercept"), [(2, INF, True), (1, 2, False), (INF, 1, True)]
)
def test_separators_are_those_of_arrays(summed, p, q, fit_intercept, convert):
    X, y = teacher()
    X = convert(X)
    shared = {"q": q, "eps": 0.02, "fit_intercept": fit_intercept}
    problem = summed(X, y, **shared)
    assert_same(separate_sums(problem, LpNorm(p)), min_norm_separator(X, y, p=p, **shared), problem)
    assert_same(
        largest_summed_distance(problem),
        max_margin(X, y, q=q, fit_intercept=fit_intercept),
        summed(X, y, q=q, eps=0, fit_intercept=fit_intercept),
    )


def test_scales_and_weights_are_those_of_arrays(summed):
    X, y = teacher(margin=0.8)
    scale = np.linspace(0.5, 2, 6)
    weight = np.ones(600)
    weight[:20], y[:20] = 0, -y[:20]  # wrong labels without weight
    problem = summed(X, y, weight, q=2, eps=0.02, scale=scale)
    expected = min_norm_separator(
        X[20:], y[20:], p=2, q=2, eps=0.02, scale=scale, fit_intercept=True
    )
    assert_same(separate_sums(problem, LpNorm(2)), expected, problem)
    star = max_margin(X[20:], y[20:], q=2, scale=scale, fit_intercept=True)
    assert largest_summed_distance(problem).certified.margin == pytest.approx(star.margin, rel=1e-7)


@pytest.mark.parametrize("q", [2, INF])
def test_features_that_no_adversary_moves(parts, summed, q):
    X, y = teacher(120)
    scale = np.array([0, 1, 2, 0.5, 0, 1])
    expected = max_margin(X, y, q=q, scale=scale, fit_intercept=True)
    problem = summed(X, y, q=q, eps=0.5 * expected.margin, scale=scale, cuts=[70])
    star = largest_summed_distance(problem).certified
    assert star.margin == pytest.approx(expected.margin, rel=1e-7)
    assert star.gap <= 1e-8
    shared = {"q": q, "eps": 0.5 * expected.margin, "scale": scale, "fit_intercept": True}
    assert_same(separate_sums(problem, LpNorm(2)), min_norm_separator(X, y, p=2, **shared), problem)
    for solve in (
        partial(max_margin, q=q, scale=scale),
        partial(min_norm_separator, p=2, **shared),
    ):
        with pytest.warns(ConvergenceWarning, match="above tol=1e-300") as caught:
            solve(BlockRows(parts(X, y, cuts=[70])), tol=1e-300)
        assert [warning.filename for warning in caught] == [__file__]
    # features out of reach separate all samples by themselves
    X[:, 0] = y * (1 + abs(X[:, 0]))
    rows = BlockRows(parts(X, y, cuts=[70]))
    alone = max_margin(rows, q=q, scale=scale, fit_intercept=True)
    assert (alone.margin, alone.relative_gap) == (INF, 0)
    assert not (alone.coef * scale).any()
    assert np.min(y * (X @ alone.coef + alone.intercept)) == pytest.approx(1)


@settings(max_examples=8)
@given(st.lists(st.integers(0, 300), max_size=5), st.integers(0, 3))
def test_any_split_and_order_has_the_same_separator(summed, cuts, seed):
    X, y = teacher(300, 4)
    order = np.random.default_rng(seed).permutation(300)
    problem = summed(X[order], y[order], q=INF, eps=0.02, cuts=sorted(cuts))
    found = separate_sums(problem, LpNorm(2)).certified
    expected = min_norm_separator(X, y, p=2, q=INF, eps=0.02, fit_intercept=True)
    assert found.gap <= 1e-8
    assert found.margin == pytest.approx(expected.margin, rel=1e-8)


@pytest.mark.parametrize("share", [1.5, 1 + 1e-6, INF])
def test_a_few_samples_prove_that_nothing_separates(summed, share):
    X, y = teacher()
    if share == INF:  # not separable without an adversary
        y[:1] *= -1
        X[0] *= 3
        eps = 0.01
    else:
        star = max_margin(X, y, q=INF, fit_intercept=True).margin
        eps = share * star
    problem = summed(X, y, q=INF, eps=eps)
    with pytest.raises(NotSeparableError) as error:
        separate_sums(problem, LpNorm(2))
    assert error.value.eps_star == pytest.approx(0 if share == INF else star, rel=1e-7)
    assert len(error.value.weights) < 300


def test_a_radius_near_eps_star_has_a_separator(summed):
    X, y = teacher()
    eps = max_margin(X, y, q=INF, fit_intercept=True).margin * (1 - 1e-6)
    found = separate_sums(summed(X, y, q=INF, eps=eps), LpNorm(2)).certified
    assert 0 < found.margin <= found.bound
