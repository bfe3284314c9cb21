import itertools
import tracemalloc

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy import sparse

import sklearn_robust._joint_rows
from sklearn_robust._joint_flows import pair_capacities
from sklearn_robust._joint_saddle import StepModel, flow, nearly_steepest
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm, SchattenNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import steepest_descent
from sklearn_robust.solvers._joint_descent import (
    joint_steepest_descent,
    least_subgradient,
    model_step,
    stopped_at_ties,
)
from sklearn_robust.total_variation import total_variation_prox

SPECTRAL, NUCLEAR = SchattenNorm(np.inf, 3), SchattenNorm(1, 3)


def apart(n=15, d=6, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return 0.5 * rng.standard_normal((n, d)) + 2 * np.eye(n_classes, d)[y], y


def overlapping(n=24, d=3, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.standard_normal((n, d))
    X[:, 0] += 0.7 * y
    return X, y


def make(X, y, q, eps, fit_intercept=True, **keywords):
    return JointProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept, **keywords)


def kinked(n_classes=4, d=3):
    """A problem, coefficients with ties, and G and capacities of random weights."""
    rng = np.random.default_rng(1)
    y = np.arange(20) % n_classes
    problem = make(rng.standard_normal((20, d)), y, np.inf, 0.2)
    coef = rng.integers(-1, 2, (n_classes, d)).astype(float)
    weights = problem.balanced(rng.uniform(size=(n_classes, 20)))
    return problem, coef, problem.weighted_sum(weights), pair_capacities(problem, weights)


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_least_subgradient_is_least_in_every_norm(p):
    problem, coef, G, capacities = kinked()
    found = least_subgradient(problem, coef, G, capacities)
    for j in range(3):
        value, constraints = -G[:, j], []
        for at, (low, high) in enumerate(itertools.combinations(range(4), 2)):
            delta = cp.Variable()
            difference = coef[low, j] - coef[high, j]
            if difference:
                constraints.append(delta == capacities[at] * np.sign(difference))
            constraints.append(cp.abs(delta) <= capacities[at])
            value = value + (np.eye(4)[low] - np.eye(4)[high]) * delta
        least = cp.Problem(cp.Minimize(cp.norm(value, p)), constraints).solve(solver="CLARABEL")
        assert np.linalg.norm(found[:, j], p) == pytest.approx(least, abs=1e-6)


def test_classes_that_would_pass_each_other_end_level():
    problem, coef, *_ = kinked()
    coef[:, 0] = [3, 2, 1, 1]
    moved = coef.copy()
    moved[:, 0] = [0, 1, 5, -1]
    stopped = stopped_at_ties(problem, coef, moved)
    np.testing.assert_array_equal(stopped[:, 1:], moved[:, 1:])
    assert stopped[0, 0] == stopped[1, 0] == stopped[2, 0] == 2  # the tied fourth is free
    assert stopped[3, 0] == -1
    still = coef + 0.1 * np.array([[1], [0], [-1], [-2]])
    np.testing.assert_array_equal(stopped_at_ties(problem, coef, still), still)


SIZES = {
    "1": (LpNorm(1), lambda W: cp.norm(cp.vec(W, order="C"), 1)),
    "2": (LpNorm(2), lambda W: cp.norm(W, "fro")),
    "inf": (LpNorm(np.inf), lambda W: cp.max(cp.abs(W))),
    "spectral": (SchattenNorm(np.inf, 4), cp.sigma_max),
    "nuclear": (SchattenNorm(1, 4), cp.normNuc),
}


@pytest.mark.parametrize("q", [1, 2, np.inf])
@pytest.mark.parametrize("name", SIZES)
def test_model_step_brings_the_largest_decrease_of_its_model(q, name):
    problem, coef, G, capacities = kinked()
    problem, (norm, size) = make(problem.X, problem.y, q, 0.2), SIZES[name]
    coef = coef / 4  # a step meets many kinks
    moved, subgradient, taken = model_step(
        problem, norm, coef, G, capacities, 0.5, np.zeros((6, 3))
    )
    length, dual = 0.5 * norm.dual.value(G.ravel()), LpNorm(q).dual.p
    D, pairs = cp.Variable((4, 3)), list(itertools.combinations(range(4), 2))
    model = -cp.sum(cp.multiply(G, D)) + sum(
        c * (cp.norm(u[low] - u[high], dual) - np.linalg.norm(coef[low] - coef[high], dual))
        for c, (low, high) in zip(capacities, pairs, strict=True)
        for u in [coef + D]
    )
    least = cp.Problem(cp.Minimize(model), [size(D) <= length]).solve(solver="CLARABEL")
    assert least < -0.01
    D.value = moved - coef
    assert norm.value(D.value.ravel()) <= length * (1 + 1e-9)
    assert least - 1e-6 <= model.value <= 0.99 * least
    # the decrease that a step must bring a share of is no more than that of the model
    assert np.vdot(subgradient, coef - moved) <= -model.value + 1e-12
    assert np.vdot(subgradient, coef - moved) > -0.5 * least
    assert np.all(LpNorm(q).value(taken) <= 1 + 1e-9)


@pytest.mark.parametrize("slack", [0.0, 1e-18, 0.3])
def test_a_nearly_steepest_direction_lacks_at_most_its_slack(slack):
    g = np.array([[2.0, -1.8, 0.1], [1.5, 1.3, -2.0]])
    direction = nearly_steepest(LpNorm(1), g, slack)
    assert np.abs(direction).sum() == pytest.approx(1)
    assert np.vdot(direction, g) >= (1 - slack) * 2 - 1e-12
    assert np.count_nonzero(direction) == (4 if slack == 0.3 else 2)


@pytest.mark.parametrize("q", [2, np.inf])
def test_coordinates_move_together_on_the_way_to_the_limit_alone(q):
    counts = [
        np.count_nonzero(
            joint_steepest_descent(
                make(*apart(), q, 0.3), LOSSES["logistic"], LpNorm(1), loss_tol=loss_tol, max_iter=3
            ).coef
        )
        for loss_tol in (0, 1e-3)
    ]
    assert counts[0] > counts[1]


def test_proximal_step_of_the_total_variation_is_the_limit_of_model_steps():
    """A step to where the model of radius r is least is the proximal step of another size."""
    problem, coef, G, capacities = kinked()
    scaled = capacities[:, None]
    near = total_variation_prox(coef + 0.1 * G, 0.1 * scaled)
    length = np.linalg.norm(near - coef)
    model = StepModel(problem, LpNorm(2), coef, G, capacities, length)
    found = model.best(np.zeros((6, 3)), tol=1e-10, max_iter=2000)
    np.testing.assert_allclose(coef + found.step, near, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "q", "name"),
    [
        (LpNorm(1), np.inf, "exponential"),
        (LpNorm(2), np.inf, "logistic"),
        (LpNorm(np.inf), np.inf, "exponential"),
        (SPECTRAL, np.inf, "exponential"),
        (LpNorm(np.inf), 1, "logistic"),
        (NUCLEAR, 1, "exponential"),
        (LpNorm(1), 2, "exponential"),
        (SPECTRAL, 2, "logistic"),
        (LpNorm(1.5), 3, "exponential"),
    ],
    ids=str,
)
def test_the_path_tends_to_the_largest_margin(norm, q, name):
    X, y = apart()
    problem = make(X, y, q, 0.3)
    found = joint_steepest_descent(
        problem, LOSSES[name], norm, loss_tol=0, tol=0.3, max_iter=3000, record_every=1
    )
    assert found.separable == [True]
    assert found.converged[0]
    coef, intercept = found.coef[0], found.intercept[0]
    margin = problem.robust_margins(coef, intercept).min() / norm.value(coef.ravel())
    assert found.margin[0] == pytest.approx(margin)
    assert 0.7 * found.margin_bound[0] <= margin <= found.margin_bound[0]
    log_risks = found.history["log_risk"][:, 0]
    assert np.all(np.diff(log_risks) <= 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "q", "name"),
    [
        (LpNorm(2), 1, "exponential"),
        (LpNorm(2), 2, "logistic"),
        (LpNorm(np.inf), 2, "exponential"),
        (LpNorm(2), np.inf, "logistic"),
        (LpNorm(2), np.inf, "exponential"),
        (SPECTRAL, np.inf, "logistic"),
    ],
    ids=str,
)
def test_the_path_tends_to_the_minimiser_of_the_risk(norm, q, name):
    X, y = overlapping()
    problem = make(X, y, q, 0.2)
    found = joint_steepest_descent(problem, LOSSES[name], norm, loss_tol=0, tol=1e-2, max_iter=2000)
    assert found.separable == [False]
    assert found.converged[0]
    assert found.gap[0] < 1e-2
    assert found.margin_bound[0] == 0


def test_from_zero_features_enter_by_cuts():
    """At zero a feature moves iff some set of classes sends more than its cut."""
    X, y = overlapping()
    problem = make(X, y, np.inf, 0.0)
    weights = problem.balanced(problem.evaluate(LOSSES["logistic"], np.zeros((3, 3))).weights)
    G = problem.weighted_sum(weights)
    ratio = max(
        abs(G[list(chosen), 0].sum())
        / sum(
            problem.pair_weights(weights)[i, k] for i in chosen for k in set(range(3)) - set(chosen)
        )
        for size in (1, 2)
        for chosen in itertools.combinations(range(3), size)
    )
    for factor, moves in [(1.001, False), (0.999, True)]:
        found = joint_steepest_descent(
            problem.at_radius(factor * ratio), LOSSES["logistic"], LpNorm(2), max_iter=1
        )
        assert (np.ptp(found.coef[0][:, 0]) > 0) == moves


@pytest.mark.parametrize("norm", [LpNorm(1), LpNorm(2), SPECTRAL], ids=str)
@pytest.mark.parametrize("q", [1, 2])
def test_an_adversary_beyond_all_features_keeps_the_coefficients_at_zero(norm, q):
    X, y = overlapping()
    found = joint_steepest_descent(
        make(X, y, q, 20.0), LOSSES["logistic"], norm, loss_tol=0, tol=1e-6, max_iter=50
    )
    assert found.separable == [False]
    assert found.converged[0]
    assert not found.coef.any()
    assert found.n_iter[0] == 1


def test_more_classes_than_cuts_serve():
    X, y = apart(n=28, d=14, n_classes=14)
    problem = make(3 * X, y, np.inf, 0.1)
    for norm in (LpNorm(2), SchattenNorm(np.inf, 14)):
        found = joint_steepest_descent(
            problem, LOSSES["exponential"], norm, loss_tol=0, tol=0.3, max_iter=300
        )
        assert found.converged[0]
        assert found.separable == [True]


def test_two_classes_follow_the_binary_path():
    X, y = overlapping(n_classes=2)
    loss = LOSSES["logistic"]
    joint = joint_steepest_descent(
        make(X, y, np.inf, 0.2), loss, LpNorm(2), step_size=0.05, max_iter=50, loss_tol=0, tol=0
    )
    binary = RobustProblem.from_data(X, 2.0 * y - 1, q=np.inf, eps=0.2, fit_intercept=True)
    expected = steepest_descent(
        binary, loss, LpNorm(2), step_size=0.1, max_iter=50, loss_tol=0, tol=0
    )
    np.testing.assert_allclose(joint.coef[0, 1] - joint.coef[0, 0], expected.coef[0], atol=1e-10)


def test_sparse_rows_follow_the_same_path():
    X, y = apart()
    options = {"loss_tol": 0, "tol": 0, "max_iter": 20}
    dense, other = (
        joint_steepest_descent(make(rows, y, np.inf, 0.3), LOSSES["logistic"], LpNorm(2), **options)
        for rows in (X, sparse.csr_array(X))
    )
    np.testing.assert_allclose(other.coef, dense.coef, atol=1e-10)


@pytest.mark.parametrize(
    ("norm", "q", "scale"),
    [
        (LpNorm(2), 2, None),
        (LpNorm(2), np.inf, [1.0, 2.0, 0.0, 1.0, 1.0, 0.5]),
        (LpNorm(1), np.inf, None),
        (SPECTRAL, 1, [1.0, 2.0, 0.0, 1.0, 1.0, 0.5]),
    ],
    ids=str,
)
def test_torch_tensors_follow_the_path_of_arrays(norm, q, scale):
    X, y = apart()
    options = {"loss_tol": 0, "tol": 0, "max_iter": 15, "record_every": 5}
    found, expected = (
        joint_steepest_descent(
            make(convert(X), convert(y), q, 0.3, scale=scale), LOSSES["logistic"], norm, **options
        )
        for convert in (torch.tensor, np.asarray)
    )
    for name in ("coef", "intercept", "weights", "margin", "margin_bound", "gap", "log_risk"):
        tensor = getattr(found, name)
        assert isinstance(tensor, torch.Tensor)
        assert tensor.dtype == torch.float64
        np.testing.assert_allclose(tensor.numpy(), getattr(expected, name), atol=1e-10)


@pytest.mark.parametrize("q", [2, np.inf])
def test_single_precision_stays_and_proves(q):
    X, y = apart()
    problem = make(X.astype(np.float32), y, q, 0.3)
    found = joint_steepest_descent(
        problem, LOSSES["exponential"], SPECTRAL, loss_tol=0, tol=0.3, max_iter=200
    )
    assert found.coef.dtype == found.weights.dtype == np.float32
    assert found.converged[0]
    assert found.separable == [True]


def test_a_threat_without_projection_is_refused():
    class Point:
        symmetric = True

        def worst(self, v):
            return 0 * v

    X, y = apart()
    problem = JointProblem.from_data(X, y, threat=Point(), fit_intercept=True)
    with pytest.raises(ValueError, match="needs project of a threat"):
        joint_steepest_descent(problem, LOSSES["logistic"], LpNorm(1))


def test_flow_of_the_pairs_equals_a_loop():
    rng = np.random.default_rng(0)
    delta, expected = rng.standard_normal((6, 3)), np.zeros((4, 3))
    for at, (low, high) in enumerate(itertools.combinations(range(4), 2)):
        expected[low] += delta[at]
        expected[high] -= delta[at]
    np.testing.assert_allclose(flow(delta, 4), expected)


def test_memory_is_that_of_one_array_over_classes_and_samples(monkeypatch):
    monkeypatch.setattr(sklearn_robust._joint_rows, "_JOINT_BLOCK_ENTRIES", 2**12)
    X, y = apart(6000, d=3, n_classes=50)
    problem, one = make(X, y, 2.0, 0.1), 8 * len(y) * 50
    tracemalloc.start()
    try:
        found = joint_steepest_descent(
            problem, LOSSES["logistic"], LpNorm(2), max_iter=1, keep_weights=False
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.weights.shape == (1, 50, 0)
    assert peak < 1.5 * one
