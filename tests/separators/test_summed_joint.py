"""Exact separators of several classes in blocks, against those of arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sklearn_robust.joint_certificates import margin_bound
from sklearn_robust.norms import LpNorm, SchattenNorm
from sklearn_robust.rows import BlockRows, LocalReduction, Survey
from sklearn_robust.separators import NotSeparableError, max_margin, min_norm_separator
from sklearn_robust.separators.summed_joint import (
    largest_joint_summed_distance,
    problem_of_joint_rows,
    separate_joint_sums,
)
from sklearn_robust.summed import SummedJointProblem
from sklearn_robust.threats import LpBall

INF = np.inf
K, D = 3, 3


class Cut:
    """Arrays as blocks that end at these places."""

    def __init__(self, *parts, stops):
        self.parts, self.stops = parts, stops

    def blocks(self):
        for start, stop in zip([0, *self.stops], [*self.stops, None], strict=True):
            yield tuple(part[start:stop] for part in self.parts)


def teacher(n=150, seed=0, margin=0.6):
    rng = np.random.default_rng(seed)
    X, W = rng.normal(size=(n, D)), rng.normal(size=(K, D))
    W -= W.mean(axis=0)
    y = (X @ W.T).argmax(axis=1)
    return X + margin * (W / np.linalg.norm(W, axis=1, keepdims=True))[y], y


def summed(X, y, *more, q, eps, stops=(30, 30, 100), fit_intercept=True, scale=None):
    reduction = LocalReduction(Cut(X, y, *more, stops=stops))
    return SummedJointProblem.of(
        reduction,
        reduction.total(Survey.of),
        LpBall(q, eps, scale),
        classes=np.arange(K),
        factors=np.ones(K),
        fit_intercept=fit_intercept,
    )


def assert_same(found, expected):
    assert found.gap <= 1e-8
    assert found.margin == pytest.approx(expected.margin, rel=1e-7)


@pytest.mark.parametrize(
    ("p", "q", "fit_intercept", "convert"),
    [
        (2, INF, True, np.asarray),
        (2, 2, False, np.float32),
        (1, 2, True, sparse.csr_array),
        (INF, 1, False, np.asarray),
    ],
)
def test_separators_are_those_of_arrays(p, q, fit_intercept, convert):
    X, y = teacher()
    X = convert(X)
    shared = {"q": q, "eps": 0.02, "fit_intercept": fit_intercept}
    problem = summed(X, y, **shared)
    found = separate_joint_sums(problem, LpNorm(p))
    assert_same(found.certified, min_norm_separator(X, y, p=p, **shared))
    # the few samples that it holds prove the bound, up to the perturbations of the pairs
    part = problem_of_joint_rows(problem, found.rows)
    assert len(part.y) < 80
    bound = margin_bound(part, LpNorm(p), found.certified.weights)
    assert bound == pytest.approx(found.certified.bound, rel=1e-4)


@pytest.mark.parametrize("q", [1, INF])
def test_eps_star_is_that_of_arrays(q):
    X, y = teacher(100, seed=1)
    weight = np.ones(len(y))
    weight[:5], y[:5] = 0, (y[:5] + 1) % K  # wrong labels without weight
    scale = None if q == 1 else np.array([0, 1, 2.0])  # no adversary moves the first
    found = largest_joint_summed_distance(summed(X, y, weight, q=q, eps=0, scale=scale))
    expected = max_margin(X[5:], y[5:], q=q, fit_intercept=True, scale=scale)
    assert_same(found.certified, expected)


@settings(max_examples=3)
@given(st.lists(st.integers(0, 90), max_size=5), st.integers(0, 3))
def test_any_split_and_order_has_the_same_separator(cuts, seed):
    X, y = teacher(90)
    order = np.random.default_rng(seed).permutation(90)
    problem = summed(X[order], y[order], q=INF, eps=0.02, stops=sorted(cuts))
    expected = min_norm_separator(X, y, p=2, q=INF, eps=0.02, fit_intercept=True)
    assert_same(separate_joint_sums(problem, LpNorm(2)).certified, expected)


@pytest.mark.parametrize("share", [1.5, INF])
def test_a_few_samples_prove_that_nothing_separates(share):
    X, y = teacher()
    if share == INF:  # not separable without an adversary
        y[0] = (y[0] + 1) % K
        X[0] *= 3
        star, eps = 0.0, 0.01
    else:
        star = max_margin(X, y, q=INF, fit_intercept=True).margin
        eps = share * star
    problem = summed(X, y, q=INF, eps=eps)
    with pytest.raises(NotSeparableError) as error:
        separate_joint_sums(problem, LpNorm(2))
    assert error.value.eps_star == pytest.approx(star, rel=1e-7)
    assert error.value.weights.shape[1] < 80
    if share == INF:
        nothing = largest_joint_summed_distance(problem).certified
        assert (nothing.margin, nothing.bound, nothing.coef.any()) == (0, 0, False)


def test_a_radius_near_eps_star_and_a_matrix_norm_have_separators():
    X, y = teacher()
    eps = max_margin(X, y, q=INF, fit_intercept=True).margin * (1 - 1e-6)
    found = separate_joint_sums(summed(X, y, q=INF, eps=eps), LpNorm(2)).certified
    assert 0 < found.margin <= found.bound
    norm = SchattenNorm(INF, K)
    found = separate_joint_sums(summed(X, y, q=2, eps=0.02), norm).certified
    expected = min_norm_separator(X, y, p="spectral", q=2, eps=0.02, fit_intercept=True)
    assert found.margin == pytest.approx(expected.margin, rel=2e-6)


def test_rows_in_blocks_have_the_public_answers():
    X, y = teacher()
    labels = np.array(["ash", "beech", "cedar"])[y]
    rows = BlockRows(Cut(X, labels, stops=(60,)))
    shared = {"q": 2, "fit_intercept": True}
    star = max_margin(rows, **shared)
    assert star.margin == pytest.approx(max_margin(X, labels, **shared).margin, rel=1e-7)
    found = min_norm_separator(rows, p=2, eps=0.02, **shared)
    expected = min_norm_separator(X, labels, p=2, eps=0.02, **shared)
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-4, atol=1e-6)
    assert found.dual_coef.shape == (K, len(found.y)) == (K, len(found.X))
    two = BlockRows(Cut(X, (y > 0) * 2 - 1, stops=(60,)))
    scale = [1, 0, 0.5]
    in_units, of_array = (max_margin(*data, scale=scale, **shared) for data in ((two,), (X, y > 0)))
    assert in_units.margin == pytest.approx(of_array.margin, rel=1e-7, abs=1e-8)
    beyond = max_margin(rows, scale=np.zeros(D), **shared)
    assert (beyond.margin, beyond.relative_gap) == (INF, 0)
    with pytest.raises(ValueError, match="y must be left out"):
        min_norm_separator(rows, labels, p=2, eps=0.02, **shared)
