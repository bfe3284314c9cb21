"""The joint minimiser in sweeps: its sums against those of all samples, its answer against that on
arrays.
"""

from dataclasses import replace
from functools import reduce
from operator import add

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import sparse

from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.solvers import _joint_sums as sums
from sklearn_robust.solvers import (
    joint_figures,
    minimise_joint_risk,
    minimise_summed_joint_risk,
    summed_joint_risk,
)
from sklearn_robust.solvers._joint_model import Direction, JointModel, Units

INF = np.inf
K = 3
SCALE = np.array([1.0, 0, 2, 1])


def draw(*, n=90, d=4, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) + 1
    scores = (X - 1) @ rng.standard_normal((d, K)) + noise * rng.standard_normal((n, K))
    return X, scores.argmax(axis=1), rng.integers(0, 4, n).astype(float)


def of_array(X, y, weight, **threat):
    return JointProblem.from_data(X, y, sample_weight=weight, **threat).in_double_arithmetic()


def compare(found, X, y, weight, loss, tol=1e-6, **threat):
    """The answer is certified, and has the risk of the answer on arrays."""
    expected = minimise_joint_risk(of_array(X, y, weight, **threat), loss, tol=tol)
    assert found.separable is expected.separable is False
    assert 0 <= found.gap <= tol
    assert abs(found.log_risk - expected.log_risk) <= 2 * tol
    np.testing.assert_allclose(found.coef, expected.coef, atol=20 * tol**0.5)


# -- the answer


@pytest.fixture
def _few_drawn(monkeypatch):
    """Starts and Hessians of a part of the samples."""
    monkeypatch.setattr(summed_joint_risk, "_DRAWN", 3)
    monkeypatch.setattr(summed_joint_risk, "_FEWEST", 40)
    monkeypatch.setattr(summed_joint_risk, "_MOST_FOR_HESSIAN", 4)


@pytest.mark.usefixtures("_few_drawn")
@pytest.mark.parametrize(
    ("loss", "q", "fit_intercept", "scale"),
    [
        ("logistic", 1, False, SCALE),
        ("exponential", 2, False, None),
        ("logistic", 2, True, SCALE),
        ("exponential", INF, True, SCALE),
        ("logistic", INF, False, None),
    ],
)
def test_the_answer_is_that_of_the_array(summed, loss, q, fit_intercept, scale):
    X, y, weight = draw(n=120)
    weight = weight if scale is None else None
    threat = {"q": q, "eps": 0.05, "scale": scale, "fit_intercept": fit_intercept}
    problem = summed(X, y, weight, **threat)
    found = minimise_summed_joint_risk(problem, LOSSES[loss], tol=1e-6)
    assert problem.reduction.source.readings <= 60
    compare(found, X, y, weight, LOSSES[loss], **threat)
    assert found.weights.shape == (K, 0)
    log_risk, margin = joint_figures(problem, LOSSES[loss], LpNorm(2), found.coef, found.intercept)
    assert log_risk == pytest.approx(found.log_risk, abs=1e-12)
    assert margin < 0


@pytest.mark.parametrize("kind", ["no adversary", "single", "sparse", "many unknowns"])
def test_hard_forms_of_data(summed, kind, monkeypatch):
    X, y, weight = draw()
    eps, tol = 0.05, 1e-6
    if kind == "no adversary":
        eps = 0.0
    elif kind == "single":
        X = X.astype(np.float32)
    elif kind == "sparse":
        X = sparse.csr_array(np.where(X > 1, X, 0))
    else:  # L-BFGS
        monkeypatch.setattr("sklearn_robust.solvers.summed_joint_risk.MOST_DENSE", 5)
        tol = 2e-3
    problem, loss = summed(X, y, weight, q=2, eps=eps), LOSSES["logistic"]
    found = minimise_summed_joint_risk(problem, loss, tol=tol)
    compare(found, X, y, weight, loss, tol, q=2, eps=eps, fit_intercept=True)


@pytest.mark.parametrize("seed", [3, 5])
def test_a_constant_feature_without_adversary_has_no_coefficients(summed, seed):
    # nothing but rounding moves them: at 1e14 they would hide the risk
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((int(rng.choice([60, 300, 1000])), int(rng.choice([2, 5, 10]))))
    X[:, 0] = 1
    X *= np.geomspace(1, 1e-5, X.shape[1])
    y, loss = rng.integers(0, K, len(X)), LOSSES["logistic" if seed % 3 else "exponential"]
    whole, rest = (
        of_array(part, y, None, q=INF, eps=0.0, fit_intercept=True) for part in (X, X[:, 1:])
    )
    expected = minimise_joint_risk(rest, loss)
    problem = summed(X, y, None, eps=0.0, pieces=np.array_split(np.arange(len(y)), 2))
    for found in (minimise_joint_risk(whole, loss), minimise_summed_joint_risk(problem, loss)):
        assert found.gap <= 1e-6
        assert found.log_risk == pytest.approx(expected.log_risk, abs=1e-6)
        assert np.abs(found.coef[:, 0]).max() <= 1


@pytest.mark.usefixtures("_few_drawn")
def test_blocks_of_one_class_and_of_no_weight(summed):
    X, y, _ = draw()
    order = np.argsort(y, kind="stable")
    X, y, weight = X[order], y[order], np.where(np.arange(90) % 30 < 3, 0.0, 1.0)
    pieces = [
        np.flatnonzero(weight == 0),
        *np.split(np.flatnonzero(weight > 0), 9),
        np.empty(0, int),
    ]
    problem, loss = summed(X, y, weight, pieces=pieces), LOSSES["exponential"]
    found = minimise_summed_joint_risk(problem, loss)
    compare(found, X, y, weight, loss, q=INF, eps=0.05, fit_intercept=True)


def test_a_start_and_records(summed):
    X, y, _ = draw()
    loss, problem, seen = LOSSES["logistic"], summed(X, y), []
    found = minimise_summed_joint_risk(problem, loss, record=lambda *at: seen.append(at))
    assert seen[-1][2] == pytest.approx(found.log_risk, abs=1e-5)
    again = minimise_summed_joint_risk(problem, loss, start=(found.coef, found.intercept))
    assert again.log_risk == pytest.approx(found.log_risk, abs=2e-6)


def test_separable_samples_end_at_a_separator_and_others_short_of_a_bound(summed):
    X, y, _ = draw(noise=0.0)
    found = minimise_summed_joint_risk(summed(X, y, eps=1e-3), LOSSES["logistic"])
    assert found.separable is True
    problem = of_array(X, y, None, q=INF, eps=1e-3, fit_intercept=True)
    assert problem.robust_margins(found.coef, found.intercept).min() > 0
    X, y, _ = draw()
    short = minimise_summed_joint_risk(summed(X, y), LOSSES["logistic"], tol=1e-12, max_iter=1)
    assert short.gap > 1e-12


def test_data_that_change_are_refused(summed):
    X, y, _ = draw()
    problem = summed(X, y)
    problem.reduction.source.pieces = problem.reduction.source.pieces[:-1]
    with pytest.raises(ValueError, match=r"X has changed: it held 90 samples .* now holds 67"):
        minimise_summed_joint_risk(problem, LOSSES["logistic"])


# -- the sums


@settings(max_examples=8, deadline=None)
@given(
    order=st.permutations(range(12)),
    cuts=st.lists(st.integers(1, 11), max_size=5, unique=True).map(sorted),
    grouped=st.booleans(),
    loss=st.sampled_from(list(LOSSES.values())),
    shift=st.sampled_from([0.0, 100.0]),
)
def test_any_split_in_any_order_adds_up_to_the_whole(summed, order, cuts, grouped, loss, shift):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 4)), np.arange(12) % K
    log_weight = np.log(rng.dirichlet(np.ones(12)))
    log_weight[:3] -= 300.0  # nothing beside the others, but all of a block of its own
    whole = summed(X, y, q=2, eps=0.1, scale=SCALE).form

    def of(places):
        parts = {"X": X[places], "y": y[places], "log_weight": log_weight[places]}
        return JointProblem(**{**vars(whole), **parts})

    units = Units(1.5, np.array([0.5, -1, 0, 0.2]))
    function = sums.RiskFunction(loss, units)
    coef, pairs = rng.standard_normal((K, 5)), np.abs(rng.standard_normal(3))
    coef[:, -1] *= 1 + shift
    model = JointModel(of(np.arange(12)), loss, units=units)
    point = model.at(coef, pairs, hold=True)
    weights = sums.WeightsAt(function, coef, pairs, point.log_risk)
    step = Direction(rng.standard_normal((K, 5)), rng.standard_normal(3))
    recipe = sums.WeightRecipe(weights).scaled(1 + rng.random((K, K)))
    recipe = recipe.moved(0.1 * rng.standard_normal((K, 5)))
    functions = [
        sums.RiskAt(function, coef, pairs),
        sums.RiskAt(function, coef, pairs, sums.Draw(10**9, 12, point.log_risk, 1.0)),
        sums.SumsOfWeights(recipe),
        sums.ClassSumsOfWeights(recipe),
        sums.DerivativesOfWeights(recipe),
        sums.PairGramOfWeights(recipe, np.array([1, 4])),
        sums.EntropyOfWeights(((0.3, recipe), (0.7, sums.WeightRecipe(weights))), loss, -1.0),
        sums.FiguresAt(loss, LpNorm(2), coef[:, :-1], coef[:, -1]),
    ]
    pieces = [np.array(piece) for piece in np.split(np.array(order), cuts)]
    for query in functions:
        parts = [query(of(piece)) for piece in pieces]
        if grouped and len(parts) > 2:  # ((1 + 2) + (3 + ...))
            parts = [parts[0] + parts[1], reduce(add, parts[2:])]
        same(reduce(add, parts), query(of(np.arange(12))))
    # against the model of all samples
    same(functions[0](of(np.arange(12))).gradient, point.gradient)
    hessian = functions[1](of(np.arange(12))).hessian.matrix(logarithmic=model.logarithmic)
    hessian = np.triu(hessian) + np.triu(hessian, 1).T
    same(hessian @ step.flat(), model.hessian_product(point, step).flat())


def same(found, expected):
    """Numbers, arrays and records of them agree."""
    if expected is None:
        assert found is None
        return
    if hasattr(expected, "__dataclass_fields__"):
        for name, value in vars(expected).items():
            same(getattr(found, name), value)
        return
    scale = 1 + np.abs(np.asarray(expected, float)).max()
    atol = 1e-11 * (scale if np.isfinite(scale) else 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_drawn_samples_estimate_sums_without_bias(summed, loss):
    X, y, weight = draw(n=4000)
    problem = summed(X, y, weight + 1.0, pieces=np.array_split(np.arange(4000), 5))
    model = summed_joint_risk.SummedJointModel(problem, loss)
    at = model.at(0.3 * np.ones((K, 5)) * np.arange(K)[:, None], np.zeros(3))
    drawn = model.draw(at, 1000)
    assert 850 < len(drawn.y) < 1150
    share = np.bincount(drawn.y, drawn.factor * np.exp(drawn.log_weight))
    np.testing.assert_allclose(share, problem.class_weights / problem.total_weight, atol=0.05)
    assert drawn.factor.max() <= 8 + 1e-9
    # and the Hessian
    chosen = sums.Draw(2000, 4000, at.log_risk, float(at.class_sums.sum()))
    step = Direction(np.ones((K, 5)) * np.arange(K)[:, None], np.zeros(3))
    along = [
        step.flat() @ (np.triu(matrix) + np.triu(matrix, 1).T) @ step.flat()
        for _, matrix in (
            model.with_hessian(at.coef, at.pairs, chosen),
            model.with_hessian(at.coef, at.pairs, replace(chosen, most=10**9)),
        )
    ]
    assert along[0] == pytest.approx(along[1], rel=0.1)


def test_gap_in_few_sweeps(summed):
    X, y, _ = draw(n=6000, d=8)
    problem = summed(X, y, pieces=np.array_split(np.arange(6000), 3))
    problem.reduction.source.readings = 0
    found = minimise_summed_joint_risk(problem, LOSSES["logistic"], tol=1e-6)
    assert found.gap <= 1e-6
    assert problem.reduction.source.readings <= 15
