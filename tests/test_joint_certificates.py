import itertools

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import minimize_scalar

from sklearn_robust._joint_saddle import flow
from sklearn_robust.certificates import certify as certify_binary
from sklearn_robust.certificates import log_risk_bound as binary_log_risk_bound
from sklearn_robust.certificates import relative_gap
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import (
    best_intercept,
    certify,
    entropy_bound,
    feasibility,
    log_risk_bound,
    margin_bound,
    pair_perturbations,
    repaired_weights,
    robust_margin,
)
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm, SchattenNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.threats import LpBall

each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_q = pytest.mark.parametrize("q", [1, 2, np.inf])
each_p = pytest.mark.parametrize("p", [1, 2, np.inf])
each_intercept = pytest.mark.parametrize(
    "fit_intercept", [True, False], ids=["intercept", "no intercept"]
)
SHRUNK = 1e-4  # share by which a radius is lowered for weights that are feasible at the full one


def overlapping(n=24, d=3, n_classes=3, seed=0):
    """Classes that no predictor separates, and sample weights."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.standard_normal((n, d))
    X[:, 0] += 0.7 * y
    return X, y, rng.dirichlet(np.full(n, 3.0))


def apart(n=15, d=6, n_classes=3, seed=0):
    """Classes that a predictor separates."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return 0.5 * rng.standard_normal((n, d)) + 2 * np.eye(n_classes, d)[y], y


class Program:
    """Predictors, pair penalties and margins in cvxpy."""

    def __init__(self, X, y, q, eps, fit_intercept):
        n_classes = y.max() + 1
        pairs = list(itertools.combinations(range(n_classes), 2))
        self.W, self.b = cp.Variable((n_classes, X.shape[1])), cp.Variable(n_classes)
        penalty = cp.Variable(len(pairs))
        self.constraints = [cp.sum(self.b) == 0] if fit_intercept else [self.b == 0]
        self.below = [
            cp.norm(self.W[low] - self.W[high], LpNorm(q).dual.p) <= penalty[at]
            for at, (low, high) in enumerate(pairs)
        ]
        at = {pair: i for i, pair in enumerate(pairs)}
        at |= {(k, low): i for (low, k), i in at.items()}
        self.margins = [
            [
                (self.W[own] - self.W[k]) @ x + self.b[own] - self.b[k] - eps * penalty[at[own, k]]
                for k in range(n_classes)
                if k != own
            ]
            for x, own in zip(X, y, strict=True)
        ]

    def solve(self, objective, constraints=()):
        program = cp.Problem(objective, [*self.constraints, *self.below, *constraints])
        program.solve(solver="CLARABEL")
        return program.value, self.W.value, self.b.value


def least_log_risk(name, X, y, s, q, eps, fit_intercept):
    program = Program(X, y, q, eps, fit_intercept)
    if name == "exponential":
        terms = [np.log(w) - m for w, row in zip(s, program.margins, strict=True) for m in row]
        return program.solve(cp.Minimize(cp.log_sum_exp(cp.hstack(terms))))
    losses = [cp.log_sum_exp(cp.hstack([0, *(-m for m in row)])) for row in program.margins]
    risk, *predictor = program.solve(cp.Minimize(s @ cp.hstack(losses)))
    return np.log(risk), *predictor


def largest_margin(X, y, p, q, eps, fit_intercept):
    program = Program(X, y, q, eps, fit_intercept)
    gamma = cp.Variable()
    inside = [cp.norm(cp.vec(program.W, order="C"), p) <= 1]
    inside += [m >= gamma for row in program.margins for m in row]
    return program.solve(cp.Maximize(gamma), inside)


# --- risk


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "q", "fit_intercept"),
    [("exponential", 1, True), ("exponential", 2, False), ("logistic", np.inf, True)],
)
def test_risk_and_bound_meet_at_the_minimiser(name, q, fit_intercept):
    X, y, s = overlapping()
    loss, eps = LOSSES[name], 0.2
    keywords = {"q": q, "eps": eps, "fit_intercept": fit_intercept, "sample_weight": s}
    problem = JointProblem.from_data(X, y, **keywords)
    least, coef, _ = least_log_risk(loss.name, X, y, s, q, eps, fit_intercept)
    assert problem.evaluate(loss, coef).log_risk == pytest.approx(least, abs=1e-7)

    lower = problem.at_radius(eps * (1 - SHRUNK))
    _, coef, _ = least_log_risk(loss.name, X, y, s, q, lower.radius, fit_intercept)
    weights = problem.balanced(lower.evaluate(loss, coef).weights)
    start = pair_perturbations(problem, coef)
    found = feasibility(problem, weights, start, search=True)
    assert found.proven
    bound = log_risk_bound(problem, loss, weights, start, search=True)
    assert least - 10 * SHRUNK < bound < least + 1e-7
    gap = relative_gap(np.exp(bound), np.exp(problem.evaluate(loss, coef).log_risk))
    assert gap < 20 * SHRUNK
    if found.perturbations is not None:  # they are in the set, and take G
        assert np.all(LpNorm(q).value(found.perturbations) <= 1 + 1e-12)
        low, high = problem.pairs
        A = problem.pair_weights(weights)[low, high]
        taken = flow(eps * A[:, None] * found.perturbations, 3)
        np.testing.assert_allclose(taken, problem.weighted_sum(weights), atol=1e-13)
    # weights from well below the radius prove nothing, or less
    _, coef, _ = least_log_risk(loss.name, X, y, s, q, 1.2 * eps, fit_intercept)
    weights = problem.balanced(problem.at_radius(1.2 * eps).evaluate(loss, coef).weights)
    start = pair_perturbations(problem, coef)
    assert log_risk_bound(problem, loss, weights, start, search=True) < least - SHRUNK


@each_loss
def test_entropy_bound_equals_its_formula(loss):
    X, y, s = overlapping()
    problem = JointProblem.from_data(X, y, q=2, eps=0.2, fit_intercept=True, sample_weight=s)
    weights = problem.balanced(np.random.default_rng(1).uniform(size=(3, len(y))) ** 3)
    ratios = np.where(weights > 0, weights, 1) / s
    if loss.name == "exponential":
        expected = -np.sum(weights * np.log(np.where(weights > 0, ratios, 1)))
    else:
        beta = np.where(weights > 0, ratios, 0)
        most = 1 / beta.sum(axis=0).max()

        def entropy(c):
            rest = 1 - c * beta.sum(axis=0)
            logs = np.log(np.where(beta > 0, c * beta, 1))
            return s @ (-np.sum(c * beta * logs, axis=0) - rest * np.log(rest))

        best = minimize_scalar(
            lambda c: -entropy(c), bounds=(0, most), method="bounded", options={"xatol": 1e-9}
        )
        expected = np.log(-best.fun)
    assert entropy_bound(problem, loss, weights) == pytest.approx(expected, abs=1e-7)


@each_loss
@each_q
def test_two_classes_have_the_bounds_of_the_binary_problem(loss, q):
    X, y, s = overlapping(n_classes=2)
    keywords = {"q": q, "eps": 0.2, "fit_intercept": True, "sample_weight": s}
    joint = JointProblem.from_data(X, y, **keywords)
    binary = RobustProblem.from_data(X, 2.0 * y - 1, **keywords)
    a = binary.balanced(np.random.default_rng(0).uniform(size=(1, len(y))))
    weights = np.stack([a[0] * (y == 1), a[0] * (y == 0)])
    assert entropy_bound(joint, loss, weights) == pytest.approx(
        binary_log_risk_bound(binary, loss, a)[0]
    )
    coef = np.random.default_rng(1).standard_normal((1, 3))
    halves = np.concatenate([-coef, coef]) / 2
    for p in (1, 2, np.inf):
        expected = certify_binary(binary, LpNorm(p), coef, a)
        found = certify(joint, LpNorm(p), halves, weights)
        # ||(w_0, w_1)||_p is 2^(1/p - 1) ||w||_p, and the bound in the same units
        unit = 2 ** (1 / p - 1)
        assert found.bound * unit > expected.bound[0] - 1e-12
        assert found.bound * unit < (1 + 1e-6) * expected.bound[0]
        assert found.margin * unit == pytest.approx(expected.margin[0])


# --- margin


@pytest.mark.slow
@pytest.mark.pairwise
@each_p
@each_q
@each_intercept
def test_margin_is_below_gamma_and_bound_is_above(p, q, fit_intercept):
    X, y = apart()
    gamma, coef, _ = largest_margin(X, y, p, q, 0.3, fit_intercept)
    assert gamma > 0.01
    problem = JointProblem.from_data(X, y, q=q, eps=0.3, fit_intercept=fit_intercept)
    rng = np.random.default_rng(1)
    for _ in range(5):
        weights = rng.uniform(size=(3, len(y))) ** 4
        moved = coef + 0.1 * np.abs(coef).max() * rng.standard_normal(coef.shape)
        found = certify(problem, LpNorm(p), moved, weights)
        assert found.margin <= gamma + 1e-7
        assert found.bound >= gamma - 1e-7
        assert found.gap == relative_gap(found.margin, found.bound)
        assert found.margin == pytest.approx(
            problem.robust_margins(found.coef, found.intercept).min()
            / np.linalg.norm(found.coef.ravel(), p)
        )
        if found.margin > 0:
            smallest = problem.robust_margins(found.coef, found.intercept).min()
            assert smallest == pytest.approx(1)
    assert certify(problem, LpNorm(p), coef, weights).margin == pytest.approx(gamma, abs=1e-6)


@pytest.mark.slow
@pytest.mark.pairwise
@each_p
@each_q
@each_intercept
def test_bound_meets_gamma_at_dual_weights(p, q, fit_intercept):
    """Weights and perturbations of the dual program: maximise nothing but feasible flows."""
    X, y = apart()
    eps, n_classes, dual = 0.3, 3, LpNorm(p).dual.p
    gamma, coef, _ = largest_margin(X, y, p, q, eps, fit_intercept)
    a = cp.Variable((n_classes, len(y)), nonneg=True)
    own = (np.arange(n_classes)[:, None] == y).astype(float)
    constraints = [cp.sum(a) == 1, cp.multiply(a, own) == 0]
    signed = cp.multiply(own, cp.vstack([cp.sum(a, axis=0)] * n_classes)) - a
    if fit_intercept:
        constraints.append(cp.sum(signed, axis=1) == 0)
    left = signed @ X
    moved = []
    for low, high in itertools.combinations(range(n_classes), 2):
        delta = cp.Variable(X.shape[1])
        pair = cp.sum(a[high, y == low]) + cp.sum(a[low, y == high])
        constraints.append(cp.norm(delta, q) <= eps * pair)
        ends = np.zeros((n_classes, 1))
        ends[low], ends[high] = 1, -1
        left = left - ends @ cp.reshape(delta, (1, X.shape[1]), order="C")
        moved.append((delta, pair))
    value = cp.Problem(cp.Minimize(cp.norm(cp.vec(left, order="C"), dual)), constraints).solve(
        solver="CLARABEL"
    )
    assert value == pytest.approx(gamma, abs=1e-6)
    problem = JointProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept)
    start = np.stack([d.value / max(eps * pair.value, 1e-9) for d, pair in moved])
    found = certify(problem, LpNorm(p), coef, a.value, perturbations=start)
    assert gamma - 1e-6 < found.margin <= found.bound < gamma + 1e-5
    assert found.gap < 1e-4


DISTANCES = {
    "1": (LpNorm(np.inf), lambda left: cp.norm(cp.vec(left, order="C"), 1)),
    "2": (LpNorm(2), lambda left: cp.norm(left, "fro")),
    "inf": (LpNorm(1), lambda left: cp.max(cp.abs(left))),
    "spectral": (SchattenNorm(1, 3), cp.sigma_max),
    "nuclear": (SchattenNorm(np.inf, 3), cp.normNuc),
}


@pytest.mark.parametrize("name", DISTANCES)
@each_q
def test_bound_is_the_distance_to_the_flows(name, q):
    """The least dual norm, whichever it is, is found from no perturbations at all."""
    X, y = apart()
    problem = JointProblem.from_data(X, y, q=q, eps=0.3, fit_intercept=False)
    weights = problem.balanced(np.random.default_rng(0).uniform(size=(3, len(y))))
    (norm, size), G = DISTANCES[name], problem.weighted_sum(weights)
    low, high = problem.pairs
    incidence = np.zeros((3, 3))
    incidence[np.arange(3), low], incidence[np.arange(3), high] = 1, -1
    delta = cp.Variable((3, X.shape[1]))
    caps = 0.3 * problem.pair_weights(weights)[low, high]
    distance = cp.Problem(
        cp.Minimize(size(G - incidence.T @ delta)), [cp.norm(delta, q, axis=1) <= caps]
    ).solve(solver="CLARABEL")
    bound = margin_bound(problem, norm, weights)
    assert distance < 0.99 * norm.dual.value(G.ravel())
    assert distance - 1e-7 < bound < distance * (1 + 1e-5)


@pytest.mark.parametrize("norm", [SchattenNorm(np.inf, 3), SchattenNorm(1, 3)], ids=str)
def test_bounds_of_matrix_norms_charge_their_rounding(norm):
    """In single precision the bound stays above that of the same weights in double precision."""
    X, y = apart()
    weights = np.random.default_rng(0).uniform(size=(3, len(y)))
    single, double = (
        JointProblem.from_data(X.astype(kind), y, q=2, eps=0.0, fit_intercept=False)
        for kind in (np.float32, np.float64)
    )
    exact = margin_bound(double, norm, double.balanced(weights))
    rounded = single.balanced(weights.astype(np.float32))
    computed = norm.dual.value(single.weighted_sum(rounded).astype(np.float64).ravel())
    bound = margin_bound(single, norm, rounded)
    assert computed * (1 + 1e-7) < bound
    assert exact < bound < exact * (1 + 1e-4)


@pytest.mark.parametrize("n_classes", [2, 3, 5, 8])
def test_best_intercept_is_that_of_a_linear_program(n_classes):
    margins = np.random.default_rng(n_classes).standard_normal((n_classes, n_classes))
    np.fill_diagonal(margins, np.inf)
    b, smallest = best_intercept(margins)
    shift, least = cp.Variable(n_classes), cp.Variable()
    pairs = itertools.permutations(range(n_classes), 2)
    value = cp.Problem(
        cp.Maximize(least), [margins[low, k] + shift[low] - shift[k] >= least for low, k in pairs]
    ).solve(solver="CLARABEL")
    assert smallest == pytest.approx(value, abs=1e-7)
    assert np.min(margins + b[:, None] - b) == smallest
    assert abs(b.sum()) < 1e-12


def test_robust_margin_charges_its_rounding():
    X, y = apart()
    problem = JointProblem.from_data(X, y, q=2, eps=0.3, fit_intercept=True)
    coef = np.random.default_rng(0).standard_normal((3, X.shape[1]))
    exact = problem.robust_margins(coef, np.zeros(3)).min() / np.linalg.norm(coef)
    charged = robust_margin(problem, LpNorm(2), coef, np.zeros(3))
    assert exact - 1e-13 < charged < exact
    single = JointProblem.from_data(X.astype(np.float32), y, q=2, eps=0.3, fit_intercept=True)
    charged = robust_margin(single, LpNorm(2), coef.astype(np.float32), np.zeros(3, np.float32))
    assert exact - 1e-4 < charged < exact
    assert robust_margin(problem, LpNorm(2), 0 * coef, np.zeros(3)) == -np.inf


# --- separability


@each_q
@each_intercept
def test_separability_is_proven_either_way(q, fit_intercept):
    X, y = apart()
    _, coef, intercept = largest_margin(X, y, 2, q, 0.3, fit_intercept)
    problem = JointProblem.from_data(X, y, q=q, eps=0.3, fit_intercept=fit_intercept)
    assert robust_margin(problem, LpNorm(2), coef, intercept) > 0
    assert not robust_margin(problem, LpNorm(2), -coef, -intercept) > 0
    weights = problem.evaluate(LOSSES["exponential"], coef).weights
    start = pair_perturbations(problem, coef)
    assert not feasibility(problem, problem.balanced(weights), start, search=True).proven

    X, y, _ = overlapping()
    problem = JointProblem.from_data(X, y, q=q, eps=0.2, fit_intercept=fit_intercept)
    uniform = problem.balanced(np.ones((3, len(y))))
    # means of the classes within the radius of each other prove it
    wide = problem.at_radius(3.0)
    assert feasibility(wide, uniform, search=True).proven
    assert not feasibility(problem.at_radius(0.01), uniform, search=True).proven


def test_proof_is_exact_for_two_equal_samples():
    X = np.array([[1.0, 2.0], [1.0, 2.0], [5.0, -3.0]])
    problem = JointProblem.from_data(X, np.arange(3), q=np.inf, eps=0.0, fit_intercept=True)
    weights = np.zeros((3, 3))
    weights[1, 0] = weights[0, 1] = 1.0
    assert feasibility(problem, problem.balanced(weights)).ratio == 0
    assert margin_bound(problem, LpNorm(2), problem.balanced(weights)) < 1e-14


@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_features_out_of_reach_must_cancel(q):
    X = np.array([[1.0, 1.0], [-1.0, 1.0], [0.0, 1.0]])
    weights = np.array([[0, 1.0, 1], [1, 0, 1], [1, 1, 0]])
    for fixed, proven in [(1, True), (0, False)]:
        scale = np.ones(2)
        scale[fixed] = 0
        problem = JointProblem.from_data(
            X, np.arange(3), q=q, eps=1.5, scale=scale, fit_intercept=True
        )
        found = feasibility(problem, problem.balanced(weights), search=True)
        assert found.proven == proven
        bound = margin_bound(problem, LpNorm(2), problem.balanced(weights))
        assert (bound < 1e-6) == proven


def test_more_than_twelve_classes_are_proven_by_pairs():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 15
    X = rng.standard_normal((60, 4))
    problem = JointProblem.from_data(X, y, q=np.inf, eps=0.8, fit_intercept=True)
    uniform = problem.balanced(np.ones((15, 60)))
    found = feasibility(problem, uniform, search=True)
    assert found.proven
    low, high = problem.pairs
    A = problem.pair_weights(uniform)[low, high]
    np.testing.assert_allclose(
        flow(0.8 * A[:, None] * found.perturbations, 15), problem.weighted_sum(uniform), atol=1e-14
    )
    assert margin_bound(problem, LpNorm(1), uniform) < 1e-12
    assert not feasibility(problem.at_radius(0.6), uniform, search=True).proven


@each_loss
def test_foreign_threats_prove_what_their_ball_proves(loss):
    class Box:
        symmetric = True

        def worst(self, v):
            return 0.4 * np.sign(v)

        def project(self, x, radius=1.0):
            bound = 0.4 * np.asarray(radius)[..., None]
            return np.clip(x, -bound, bound)

    X, y, s = overlapping()
    ours = JointProblem.from_data(X, y, q=np.inf, eps=0.4, fit_intercept=True, sample_weight=s)
    foreign = JointProblem.from_data(X, y, threat=Box(), fit_intercept=True, sample_weight=s)
    coef = np.random.default_rng(0).standard_normal((3, 3))
    assert foreign.evaluate(loss, coef).log_risk == pytest.approx(
        ours.evaluate(loss, coef).log_risk
    )
    weights = ours.balanced(np.ones((3, len(y))))
    assert log_risk_bound(foreign, loss, weights, search=True) == pytest.approx(
        log_risk_bound(ours, loss, weights)
    )


@pytest.mark.parametrize("convert", [sparse.csr_array, torch.tensor], ids=["sparse", "tensor"])
def test_every_kind_of_rows_proves_the_same(convert):
    X, y = apart()
    coef = np.eye(3, X.shape[1])
    weights = np.ones((3, len(y)))
    problem = JointProblem.from_data(X, y, q=2, eps=0.3, fit_intercept=True)
    expected = certify(problem, LpNorm(1), coef, weights)
    tensors = convert is torch.tensor
    arrays = [torch.tensor(array) if tensors else array for array in (y, coef, weights)]
    other = JointProblem.from_data(convert(X), arrays[0], q=2, eps=0.3, fit_intercept=True)
    found = certify(other, LpNorm(1), *arrays[1:])
    assert found.margin == pytest.approx(expected.margin)
    assert found.bound == pytest.approx(expected.bound)


def test_a_ball_is_taken_as_it_is():
    X, y = apart()
    by_names = JointProblem.from_data(X, y, q=2, eps=0.3, fit_intercept=True)
    by_object = JointProblem.from_data(X, y, threat=LpBall(2, 0.3), fit_intercept=True)
    assert by_names.threat == by_object.threat == LpBall(2, 1.0)
    assert by_names.radius == by_object.radius == 0.3


@pytest.mark.slow
@pytest.mark.pairwise
@each_loss
@each_q
@each_intercept
def test_weights_near_a_proof_are_repaired(loss, q, fit_intercept):
    X, y, s = overlapping()
    problem = JointProblem.from_data(
        X, y, q=q, eps=0.2, fit_intercept=fit_intercept, sample_weight=s
    )
    least, coef, _ = least_log_risk(loss.name, X, y, s, q, 0.2, fit_intercept)
    weights = problem.evaluate(loss, coef).weights
    start = pair_perturbations(problem, coef)
    repaired = repaired_weights(problem, weights, start)
    assert feasibility(problem, repaired, start, search=True).proven
    np.testing.assert_allclose(repaired, problem.balanced(weights), atol=1e-4)
    assert least - 1e-4 < entropy_bound(problem, loss, repaired) < least + 1e-7


def test_weights_of_separable_data_are_not_repaired():
    X, y = apart()
    problem = JointProblem.from_data(X, y, q=np.inf, eps=0.3, fit_intercept=True)
    assert np.isnan(repaired_weights(problem, np.ones((3, len(y))))).all()
