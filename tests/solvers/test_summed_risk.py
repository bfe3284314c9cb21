"""Newton's method in sweeps: its sums against formulas, its answer against that on arrays."""

import math
from functools import reduce
from operator import add

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import sparse

from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import DenseRows, LocalReduction, Survey
from sklearn_robust.solvers import (
    balanced_weighted_sum,
    minimise_robust_risk,
    minimise_summed_risk,
    summed_risk,
)
from sklearn_robust.solvers._risk_sums import LossAt, ModelWeights, Moments, SumsOfWeights, Trial
from sklearn_robust.summed import Predictor, Samples, SummedProblem
from sklearn_robust.threats import LpBall


class Parts:
    """The blocks of arrays, cut into pieces of these places; readings are counted."""

    def __init__(self, X, y, weight, pieces):
        self.arrays, self.pieces, self.readings = (X, y, weight), pieces, 0

    def blocks(self):
        self.readings += 1
        for at in self.pieces:
            yield tuple(None if x is None else x[at] for x in self.arrays)


def draw(*, n=90, d=5, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) + 1
    y = np.where((X - 1) @ rng.standard_normal(d) + noise * rng.standard_normal(n) > 0.5, 1.0, -1.0)
    return X, y, rng.integers(0, 4, n).astype(float)


def summed(X, y, weight=None, *, q=np.inf, eps=0.05, scale=None, fit_intercept=True, pieces=None):
    pieces = np.array_split(np.arange(len(y)), 4) if pieces is None else pieces
    source = Parts(X, y, weight, pieces)
    reduction = LocalReduction(source)
    return SummedProblem.of(
        reduction,
        reduction.total(Survey.of),
        LpBall(q, eps, scale),
        classes=np.array([-1.0, 1.0]),
        factors=np.ones(2),
        fit_intercept=fit_intercept,
    )


def compare(found, X, y, weight, loss, **threat):
    """The answer is certified, and has the risk of the answer on arrays."""
    problem = RobustProblem.from_data(X, y, sample_weight=weight, **threat)
    expected = minimise_robust_risk(problem, loss, LpNorm(2), tol=1e-9)
    assert found.separable is expected.separable[0] is False
    assert found.gap <= 1e-9
    rounding = np.finfo(X.dtype).eps  # of a figure of the array's answer
    assert found.log_risk == pytest.approx(float(expected.log_risk[0]), abs=3e-9 + float(rounding))
    np.testing.assert_allclose(found.coef, expected.coef[0], atol=1e-3)
    assert found.margin == pytest.approx(float(expected.margin[0]), rel=1e-2)


# -- the answer


@pytest.mark.pairwise
@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
@pytest.mark.parametrize("q", [1, 1.5, 2, np.inf])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_answer_is_that_of_the_array(loss, q, fit_intercept):
    X, y, weight = draw()
    for weights, scale in ((None, None), (weight, np.array([1.0, 0, 2, 1, 0.5]))):
        threat = {"q": q, "eps": 0.05, "scale": scale, "fit_intercept": fit_intercept}
        problem = summed(X, y, weights, **threat)
        found = minimise_summed_risk(problem, loss, LpNorm(2), tol=1e-9)
        assert problem.reduction.source.readings <= 15
        compare(found, X, y, weights, loss, **threat)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
@pytest.mark.parametrize("kind", ["no adversary", "single", "sparse", "near separable", "wide"])
def test_hard_forms_of_data(loss, kind):
    X, y, weight = draw(noise=0.05 if kind == "near separable" else 1.0)
    eps = 0.0 if kind == "no adversary" else 0.05
    if kind == "single":
        X = X.astype(np.float32)
    elif kind == "sparse":
        X = sparse.csr_array(np.where(X > 1, X, 0))
    elif kind == "wide":  # few of the columns are in the Hessian
        X = np.hstack([X, np.random.default_rng(1).standard_normal((90, 200))])
        eps = 0.2
    found = minimise_summed_risk(summed(X, y, weight, eps=eps), loss, LpNorm(2), tol=1e-9)
    compare(found, X, y, weight, loss, q=np.inf, eps=eps, fit_intercept=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_features_of_sizes_far_apart_are_certified_in_any_order(seed):
    """Weights are feasible up to the rounding of each feature, which is above the radius here."""
    rng = np.random.default_rng(0)
    X, sizes = rng.standard_normal((200, 4)), np.array([1e-6, 1e-2, 1e2, 1e6])
    y = np.where(X[:, 0] + X[:, 3] + rng.standard_normal(200) > 0, 1.0, -1.0)
    order = np.random.default_rng(seed).permutation(200)
    problem = summed((X * sizes)[order], y[order], q=1, eps=1e-7)
    found = minimise_summed_risk(problem, LOSSES["logistic"], LpNorm(2))
    assert found.separable is False
    assert found.gap <= 1e-8


def test_a_class_of_its_own_in_each_block_and_blocks_without_weight():
    X, y, _ = draw()
    order = np.argsort(y, kind="stable")
    weight = np.where(order < 20, 0.0, 1.0)
    X, y = X[order], y[order]
    pieces = [np.flatnonzero(weight == 0), *np.array_split(np.flatnonzero(weight > 0), 5)]
    problem = summed(X, y, weight, pieces=[*pieces, np.empty(0, int)])
    found = minimise_summed_risk(problem, LOSSES["logistic"], LpNorm(2), tol=1e-9)
    compare(found, X, y, weight, LOSSES["logistic"], q=np.inf, eps=0.05, fit_intercept=True)


def test_separable_samples_end_at_a_separator():
    X, y, _ = draw(noise=0.0)
    found = minimise_summed_risk(summed(X, y, eps=1e-3), LOSSES["logistic"], LpNorm(2))
    assert found.separable is True
    margins = y * (X @ found.coef + found.intercept) - 1e-3 * abs(found.coef).sum()
    assert found.margin == pytest.approx(margins.min() / np.linalg.norm(found.coef))
    assert found.margin > 0


def test_classes_of_unlike_size():
    """The Hessian has next to nothing of the small class, and the intercept moves by itself."""
    X, y, _ = draw(n=300)
    weight = np.where(y > 0, 1e-6, 1.0)
    for loss in LOSSES.values():
        found = minimise_summed_risk(summed(X, y, weight), loss, LpNorm(2), tol=1e-9)
        compare(found, X, y, weight, loss, q=np.inf, eps=0.05, fit_intercept=True)


def test_a_start_a_record_and_a_stop():
    X, y, _ = draw()
    loss, problem = LOSSES["logistic"], summed(X, y)
    seen = []
    found = minimise_summed_risk(problem, loss, LpNorm(2), record=lambda at: seen.append(at))
    log_risks = [at.log_risk for at in seen]
    assert log_risks == sorted(log_risks, reverse=True)
    readings = problem.reduction.source.readings
    again = minimise_summed_risk(problem, loss, LpNorm(2), start=(found.coef, found.intercept))
    assert problem.reduction.source.readings - readings <= 3
    assert again.log_risk == pytest.approx(found.log_risk, abs=1e-8)
    stopped = minimise_summed_risk(problem, loss, LpNorm(2), record=lambda at: True)
    assert (stopped.n_iter, stopped.gap, stopped.separable) == (0, math.inf, None)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_a_gap_out_of_reach_ends_at_the_one_that_is_proven(loss):
    X, y, weight = draw()
    problem = summed(X, y, weight)
    found = minimise_summed_risk(problem, loss, LpNorm(2), tol=1e-18)
    assert problem.reduction.source.readings < 30
    assert 0 <= found.gap <= 1e-8


def test_weighted_sum_at_no_coefficients():
    X, y, weight = draw()
    problem = RobustProblem.from_data(X, y, q=2, eps=1.0, fit_intercept=True, sample_weight=weight)
    expected = problem.weighted_sum(problem.class_shares())[0]
    np.testing.assert_allclose(balanced_weighted_sum(summed(X, y, weight)), expected, atol=1e-12)


# -- the sums


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(12)),
    cuts=st.lists(st.integers(1, 11), max_size=5, unique=True).map(sorted),
    grouped=st.booleans(),
    loss=st.sampled_from(list(LOSSES.values())),
    shift=st.sampled_from([0.0, 300.0, -300.0]),
)
def test_any_split_in_any_order_adds_up_to_the_whole(order, cuts, grouped, loss, shift):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 3)), np.where(rng.standard_normal(12) > 0, 1.0, -1.0)
    log_weight = np.log(rng.dirichlet(np.ones(12)))
    log_weight[:3] -= 500.0  # nothing beside the others, but all of a block of its own
    at = Predictor(rng.standard_normal(3), 0.3, 0.1 - shift)
    target = Predictor(rng.standard_normal(3), -0.2, 0.4 - shift)
    centre = np.array([0.5, -1.0])
    columns = np.array([0, 2])
    query = LossAt(loss, at, Moments(columns, centre, exact=True, cautious=False))

    def of(places):
        return Samples(DenseRows(X[places]), y[places], log_weight[places])

    whole = query(of(np.arange(12)))
    model = ModelWeights(loss, at, whole.log_risk, theta=0.5, cautious=False)
    model = model.stepped(target, slope=0.1).scaled(np.array([0.7, 1.1])).stepped(at, slope=-0.2)
    weigh = SumsOfWeights(model, whole.log_risk)
    pieces = np.split(np.array(order), cuts)
    for function in (query, weigh):
        parts = [function(of(piece)) for piece in pieces]
        if grouped and len(parts) > 2:  # ((1 + 2) + (3 + ...))
            parts = [parts[0] + parts[1], reduce(add, parts[2:])]
        same(reduce(add, parts), function(of(np.arange(12))))

    # against the formulas
    margins = y * (X @ at.coef + at.intercept) - at.penalty
    log_risk, a = loss.log_risk_and_weights(margins, log_weight)
    c, R = loss.curvature(margins, a), X[:, columns] - centre
    assert whole.log_risk == pytest.approx(float(log_risk))
    np.testing.assert_allclose(whole.gradient.weighted_sum, (y * a) @ X, atol=1e-12)
    np.testing.assert_allclose(whole.curvature.gram, (R.T * c) @ R, atol=1e-12)
    change = y * (X @ (target.coef - at.coef) - 0.5) - 0.3
    factors = np.where(y > 0, 1.1, 0.7)
    weights = factors * np.maximum(a - c * change + 0.5 * 0.1 * a, 0)
    weights = np.maximum(weights + c * change - 0.5 * 0.2 * a, 0)
    total = weigh(of(np.arange(12)))
    np.testing.assert_allclose(total.total, [weights[y < 0].sum(), weights[y > 0].sum()])
    np.testing.assert_allclose(total.weighted_sum.sum(axis=0), (y * weights) @ X, atol=1e-12)


def same(found, expected):
    """Records of numbers, arrays and records agree."""
    for name, value in vars(expected).items():
        if hasattr(value, "__dataclass_fields__"):
            same(getattr(found, name), value)
        else:
            scale = 1 + np.abs(value).max()
            atol = 1e-12 * (scale if np.isfinite(scale) else 1.0)
            np.testing.assert_allclose(getattr(found, name), value, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_the_bound_of_sums_is_that_of_all_weights(loss):
    rng = np.random.default_rng(0)
    s, a = rng.dirichlet(np.ones(20), size=2)
    log_s = np.log(s)
    best = float(loss.log_risk_bound(a, log_s))
    scales = np.linspace(-8.0, -np.max(np.log(a) - log_s), 200)
    parts = [
        [loss.dual_sum(a[at], log_s[at], c) for at in (slice(7), slice(7, 20))] for c in scales
    ]
    bounds = [loss.dual_bound(sum(part), c) for part, c in zip(parts, scales, strict=True)]
    assert max(bounds) <= best + 1e-12
    assert max(bounds) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("tol", [1e-6, 1e-9])
def test_no_gram_matrix_is_summed_where_the_proof_ends_the_method(monkeypatch, tol):
    X, y, _ = draw(n=2000)
    asked = []

    def total(self, function, total=SummedProblem.total):
        if isinstance(function, Trial):
            asked.append(function.moments is not None)
        return total(self, function)

    monkeypatch.setattr(SummedProblem, "total", total)
    assert minimise_summed_risk(summed(X, y), LOSSES["logistic"], LpNorm(2), tol=tol).gap <= tol
    assert asked[0]
    assert not asked[-1]
    assert sum(asked) >= len(asked) - 2


# -- what is refused


def test_data_that_change_and_hessians_of_many_columns_are_refused(monkeypatch):
    X, y, _ = draw()
    problem = summed(X, y, q=2)
    problem.reduction.source.pieces = problem.reduction.source.pieces[:-1]
    with pytest.raises(ValueError, match=r"X has changed: it held 90 samples .* now holds 68"):
        minimise_summed_risk(problem, LOSSES["logistic"], LpNorm(2))
    monkeypatch.setattr(summed_risk.ColumnChoice, "of", of_three_columns(summed_risk.ColumnChoice))
    with pytest.raises(ValueError, match="needs more than 3 of the 5 columns"):
        minimise_summed_risk(summed(X, y, q=2), LOSSES["logistic"], LpNorm(2))


def of_three_columns(choice):
    make = choice.of
    return lambda *args: make(*args[:-1], 3)
