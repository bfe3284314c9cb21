"""The path: descent, its limit, its stopping rules."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse

from sklearn_robust import make_teacher_classification, max_margin, min_norm_separator
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import (
    accelerated_margin,
    descent_grid,
    minimise_robust_risk,
    steepest_descent,
)
from sklearn_robust.solvers._fast_path import FastPaths, _Point
from sklearn_robust.solvers._geometry import Geometry
from sklearn_robust.solvers._rule_path import RulePath
from sklearn_robust.solvers._vectors import room_like
from sklearn_robust.solvers.steepest import _SteepestDescent

EXPONENTS = (1, 2, math.inf)


def problem_of(X, y, *, q, eps, fit_intercept=False, sample_weight=None):
    return RobustProblem.from_data(
        X, y, q=q, eps=eps, fit_intercept=fit_intercept, sample_weight=sample_weight
    )


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_every_pair_descends_and_approaches_the_exact_separator(gaussian, p, q, share):
    X, y = gaussian(12, 24)
    eps = share * max_margin(X, y, q=q).margin
    exact = min_norm_separator(X, y, p=p, q=q, eps=eps)
    solution = steepest_descent(
        problem_of(X, y, q=q, eps=eps),
        LOSSES["exponential"],
        LpNorm(p),
        loss_tol=0,
        max_iter=1200,
        record_every=10,
    )
    assert np.all(np.diff(solution.history["log_risk"][:, 0]) <= 0)
    assert np.all(np.diff(solution.history["margin_bound"][:, 0]) <= 0)
    # the certificate encloses the exact margin, all along and at the end
    assert np.all(solution.history["margin"] <= exact.margin * (1 + 1e-9))
    assert np.all(solution.history["margin_bound"] >= exact.margin * (1 - 1e-9))
    if solution.margin[0] > 0:
        assert solution.margin[0] >= (1 - solution.gap[0]) * exact.margin * (1 - 1e-9)
    if share <= 0.5:
        # (1, 1) moves along ever more ties
        assert solution.margin[0] > (0.75 if p == q == 1 else 0.85) * exact.margin
        assert solution.gap[0] < (0.35 if p == q == 1 else 0.2)
    if p == 2 and share <= 0.5:  # where the separator is unique the direction converges too
        cosine = (
            solution.coef[0]
            @ exact.coef
            / np.linalg.norm(solution.coef)
            / np.linalg.norm(exact.coef)
        )
        assert 1 - cosine <= solution.gap[0]


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize(("n", "d", "fit_intercept"), [(10, 20, False), (30, 8, True)])
def test_reported_gap_holds_against_the_exact_separator(p, q, n, d, fit_intercept):
    rng = np.random.default_rng(n)
    teacher = rng.standard_normal(d) / np.sqrt(d)
    X = rng.standard_normal((n, d))
    y = np.where(X @ teacher > 0, 1.0, -1.0)
    X += y[:, None] * teacher / (teacher @ teacher) / 2  # a planted margin, also for n > d
    largest = max_margin(X, y, q=q, fit_intercept=fit_intercept).margin
    radii = [share * largest for share in (0.5, 0.9)]
    for eps in radii:
        exact = min_norm_separator(X, y, p=p, q=q, eps=eps, fit_intercept=fit_intercept)
        assert exact.relative_gap <= 1e-6
        problem = problem_of(X, y, q=q, eps=eps, fit_intercept=fit_intercept)
        solution = steepest_descent(
            problem, LOSSES["exponential"], LpNorm(p), loss_tol=0, max_iter=300
        )
        assert solution.margin[0] <= exact.margin_bound * (1 + 1e-9)
        assert solution.margin_bound[0] >= exact.margin * (1 - 1e-9)
        if solution.margin[0] > 0:
            assert solution.margin[0] >= (1 - solution.gap[0]) * exact.margin * (1 - 1e-9)
        if p == 2:
            limit = accelerated_margin(problem, LOSSES["exponential"], LpNorm(p), tol=1e-3)
            cosine = (
                limit.coef[0] @ exact.coef / np.linalg.norm(limit.coef) / np.linalg.norm(exact.coef)
            )
            assert limit.gap[0] <= 1e-3
            # margins are concave on the unit ball: the gap bounds 1 - cosine
            assert cosine >= 1 - 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("p", "q"), [(1.5, 4.0), (3.0, 1.5)])
def test_general_exponents(gaussian, p, q):
    X, y = gaussian(15, 30)
    eps = 0.5 * max_margin(X, y, q=q).margin
    solution = steepest_descent(
        problem_of(X, y, q=q, eps=eps), LOSSES["logistic"], LpNorm(p), loss_tol=0, max_iter=2000
    )
    assert solution.margin[0] > 0.9 * min_norm_separator(X, y, p=p, q=q, eps=eps).margin


@pytest.mark.slow
def test_coordinate_descent_at_large_eps_where_the_naive_subgradient_stalls(gaussian):
    X, y = gaussian(60, 200)
    eps = 0.95 * max_margin(X, y, q=math.inf).margin
    problem = problem_of(X, y, q=math.inf, eps=eps)
    solution = steepest_descent(
        problem, LOSSES["exponential"], LpNorm(1), loss_tol=0, max_iter=4000, record_every=10
    )
    log_risk = solution.history["log_risk"][:, 0]
    assert np.all(np.diff(log_risk) <= 0)
    assert log_risk[-1] < log_risk[len(log_risk) // 2] - 0.05  # still falling in the second half

    # coordinate descent with the subgradient of automatic differentiation, sign(0) = 0, at the step
    # of the paper
    coef, naive = np.zeros((1, 200)), []
    step = 1 / (np.abs(X).max() + eps) ** 2
    for _ in range(4000):
        now = problem.evaluate(LOSSES["exponential"], coef)
        naive.append(now.log_risk[0])
        gradient = -problem.weighted_sum(now.weights) + eps * np.sign(coef)
        coef = coef - step * LpNorm(1).steepest_direction(gradient) * np.abs(gradient).max()
    assert log_risk[-1] < min(naive) - 0.1


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_stops_on_the_sum_of_the_losses(gaussian, p, loss):
    X, y = gaussian(30, 60)
    problem = problem_of(X, y, q=math.inf, eps=0.05, fit_intercept=True)
    solution = steepest_descent(problem, LOSSES[loss], LpNorm(p), loss_tol=1e-3)
    total = 30 * np.exp(solution.log_risk[0])
    assert 1e-4 < total < 1e-3
    assert solution.converged[0]
    assert solution.separable == [True]


@pytest.mark.slow
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("q", EXPONENTS)
def test_data_that_are_not_separable_end_at_the_minimiser_of_the_risk(gaussian, p, q):
    X, y = gaussian(80, 4, noise=2.0)
    problem = problem_of(X, y, q=q, eps=0.1, fit_intercept=True)
    for loss in LOSSES.values():
        solution = steepest_descent(problem, loss, LpNorm(p), tol=1e-4)
        assert solution.separable == [False]
        assert solution.converged[0]
        assert solution.gap[0] <= 1e-4
        minimiser = minimise_robust_risk(problem, loss, LpNorm(p), tol=1e-12)
        assert -1e-12 <= solution.log_risk[0] - minimiser.log_risk[0] <= 1.01e-4


def test_stops_at_the_proof_of_non_separability_on_request(gaussian):
    X, y = gaussian(80, 4, noise=2.0)
    problem = problem_of(X, y, q=2, eps=0.1)
    solution = steepest_descent(
        problem, LOSSES["exponential"], LpNorm(2), tol=1e-12, stop_if_not_separable=True
    )
    assert solution.separable == [False]
    assert solution.margin_bound[0] == 0
    assert LpNorm(2).value(problem.weighted_sum(solution.weights))[0] <= 0.1


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_a_path_is_given_up_where_it_is_too_slow_to_end(gaussian, loss):
    X, y = gaussian(30, 60)
    star = max_margin(X, y, q=math.inf).margin
    norms = [LpNorm(p) for p in EXPONENTS]

    def paths(share, gives_up):
        problem = problem_of(X, y, q=math.inf, eps=share * star)
        return steepest_descent(
            problem.select(np.zeros(3, int)),
            LOSSES[loss],
            norms,
            loss_tol=1e-3,
            max_iter=2000,
            gives_up=gives_up,
        )

    slow = paths(0.99, True)
    assert not slow.converged.any()
    assert (slow.n_iter < 1000).all()
    assert not paths(0.99, False).converged.any()
    # others are as they would be without
    quick, alone = paths(0.1, True), paths(0.1, False)
    assert quick.converged.all()
    np.testing.assert_array_equal(quick.coef, alone.coef)


def test_a_batch_gives_what_its_problems_give_alone(gaussian):
    X, y = gaussian(40, 60)
    labels = np.stack([y, np.where(X[:, 0] > 0, 1.0, -1.0), np.where(X[:, 1] > 0.5, 1.0, -1.0)])
    batch = steepest_descent(
        problem_of(X, labels, q=math.inf, eps=0.02, fit_intercept=True),
        LOSSES["logistic"],
        LpNorm(2),
    )
    assert len(set(batch.n_iter.tolist())) > 1  # they stop on their own
    for i, signs in enumerate(labels):
        alone = steepest_descent(
            problem_of(X, signs, q=math.inf, eps=0.02, fit_intercept=True),
            LOSSES["logistic"],
            LpNorm(2),
        )
        np.testing.assert_allclose(batch.coef[i], alone.coef[0], rtol=1e-6)
        assert batch.gap[i] == pytest.approx(alone.gap[0], rel=1e-6)


def test_warm_start_goes_on_from_where_the_last_path_stopped(gaussian):
    X, y = gaussian(30, 60)
    problem = problem_of(X, y, q=math.inf, eps=0.05)
    first = steepest_descent(problem, LOSSES["exponential"], LpNorm(1), loss_tol=1e-3)
    more = steepest_descent(
        problem, LOSSES["exponential"], LpNorm(1), loss_tol=1e-5, coef_init=first.coef
    )
    cold = steepest_descent(problem, LOSSES["exponential"], LpNorm(1), loss_tol=1e-5)
    assert more.n_iter[0] < cold.n_iter[0]
    assert more.log_risk[0] < first.log_risk[0]


@pytest.mark.parametrize("step_size", ["paper", 0.01])
def test_constant_steps_on_the_log_risk(gaussian, step_size):
    X, y = gaussian(20, 40)
    problem = problem_of(X, y, q=math.inf, eps=0.02)
    one = steepest_descent(
        problem, LOSSES["exponential"], LpNorm(2), step_size=step_size, max_iter=1
    )
    step = 0.01 if step_size == 0.01 else 1 / (np.abs(X).max() + 0.02) ** 2
    weighted_sum = (y[:, None] * X).mean(axis=0)
    subgradient = np.sign(weighted_sum) * np.maximum(np.abs(weighted_sum) - 0.02, 0)
    np.testing.assert_allclose(one.coef[0], step * subgradient, atol=1e-15)
    many = steepest_descent(
        problem, LOSSES["exponential"], LpNorm(2), step_size=step_size, max_iter=5000
    )
    assert many.separable == [True]


def test_sample_weights_are_repetitions(gaussian):
    X, y = gaussian(25, 50)
    weight = np.random.default_rng(0).integers(1, 4, size=25)
    weighted = problem_of(
        X, y, q=math.inf, eps=0.02, fit_intercept=True, sample_weight=weight.astype(float)
    )
    repeated = problem_of(
        np.repeat(X, weight, axis=0), np.repeat(y, weight), q=math.inf, eps=0.02, fit_intercept=True
    )
    one, other = (
        steepest_descent(problem, LOSSES["exponential"], LpNorm(2))
        for problem in (weighted, repeated)
    )
    np.testing.assert_allclose(one.coef, other.coef, rtol=1e-8)
    assert one.n_iter == other.n_iter


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, math.inf])
@pytest.mark.parametrize("q", [1.5, 2, 4])
def test_leaves_the_origin_at_large_eps(gaussian, p, q):
    X, y = gaussian(40, 90)
    problem = problem_of(X, y, q=q, eps=0.98 * max_margin(X, y, q=q).margin)
    solution = steepest_descent(problem, LOSSES["exponential"], LpNorm(p), loss_tol=0, max_iter=200)
    # the steepest direction of the residual alone is one of many there, and need not descend
    assert solution.coef.any()
    assert solution.log_risk[0] < 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("q", "loss", "fit_intercept", "dtype"),
    [
        (math.inf, "exponential", True, np.float64),
        (math.inf, "exponential", True, np.float32),
        (2, "logistic", True, np.float64),
        (1, "exponential", False, np.float64),
    ],
)
def test_a_grid_of_radii_and_geometries_gives_what_single_fits_give(
    gaussian, q, loss, fit_intercept, dtype
):
    X, y = (array.astype(dtype) for array in gaussian(20, 30))
    radii = [
        share * max_margin(X, y, q=q, fit_intercept=fit_intercept).margin for share in (0.4, 0)
    ]
    exponents = [2, 1.5, math.inf, 1]
    problem = problem_of(X, np.stack([y, -y]), q=q, eps=0, fit_intercept=fit_intercept)
    grid = descent_grid(problem, LOSSES[loss], exponents, radii, loss_tol=0.1, max_iter=100)
    rows = iter(range(16))
    for p in exponents:
        for eps in radii:
            for signs in (y, -y):
                one = problem_of(X, signs, q=q, eps=eps, fit_intercept=fit_intercept)
                alone = steepest_descent(one, LOSSES[loss], LpNorm(p), loss_tol=0.1, max_iter=100)
                i = next(rows)
                assert grid.separable[i] == alone.separable[0]
                if dtype == np.float32:  # rounding may refuse a step in one and not in the other
                    assert abs(grid.n_iter[i] - alone.n_iter[0]) <= 5
                    np.testing.assert_allclose(
                        grid.margin[i], alone.margin[0], rtol=0.05, atol=0.01
                    )
                    continue
                assert grid.n_iter[i] == alone.n_iter[0]
                np.testing.assert_allclose(grid.coef[i], alone.coef[0], rtol=1e-6, atol=1e-9)
                np.testing.assert_allclose(
                    grid.intercept[i], alone.intercept[0], rtol=1e-6, atol=1e-9
                )
                np.testing.assert_allclose(grid.margin[i], alone.margin[0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("q", [2, math.inf])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("n_problems", [1, 3])
def test_steps_of_the_fast_path_are_those_of_the_rule(gaussian, p, q, fit_intercept, n_problems):
    X, y = gaussian(20, 30)
    weight = np.random.default_rng(0).integers(0, 3, size=(n_problems, 20)).astype(float)
    labels = np.tile(y, (n_problems, 1))
    arrays = problem_of(X, labels, q=q, eps=0.05, fit_intercept=fit_intercept, sample_weight=weight)
    tensors = problem_of(
        *map(torch.as_tensor, (X, labels)),
        q=q,
        eps=0.05,
        fit_intercept=fit_intercept,
        sample_weight=torch.as_tensor(weight),
    )
    sparse_arrays = problem_of(
        sparse.csr_array(X),
        labels,
        q=q,
        eps=0.05,
        fit_intercept=fit_intercept,
        sample_weight=weight,
    )
    solutions = [
        steepest_descent(
            problem, LOSSES["exponential"], LpNorm(p), loss_tol=0, max_iter=25, record_every=5
        )
        for problem in (arrays, tensors, sparse_arrays)
    ]  # not for long: steps at the edge of stability magnify rounding
    for other in solutions[1:]:
        np.testing.assert_allclose(solutions[0].coef, other.coef, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(solutions[0].history["gap"], other.history["gap"], rtol=1e-6)
        np.testing.assert_allclose(solutions[0].weights, other.weights, rtol=1e-6, atol=1e-12)


def test_coordinates_that_tie_move_together():
    # the first two columns are one
    X, y = np.array([[1.0, 1.0, 0.2], [1.0, 1.0, -0.2]]), np.ones(2)
    solution = steepest_descent(
        problem_of(X, y, q=math.inf, eps=0.1), LOSSES["exponential"], LpNorm(1), loss_tol=1e-2
    )
    assert solution.coef[0, 0] == solution.coef[0, 1] > 0


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("n_problems", [1, 2])
def test_steps_that_overflow_are_evaluated_all_the_same(gaussian, dtype, fit_intercept, n_problems):
    X, y = gaussian(20, 30)
    X, labels = (1e4 * X).astype(dtype), np.tile(y.astype(dtype), (n_problems, 1))
    problem = problem_of(X, labels, q=math.inf, eps=200.0, fit_intercept=fit_intercept)
    for step_size in (1.0, "adaptive"):
        solution = steepest_descent(
            problem, LOSSES["exponential"], LpNorm(2), step_size=step_size, max_iter=50, loss_tol=0
        )
        margins = problem.margins(solution.coef, solution.intercept)
        log_risk, _ = LOSSES["exponential"].log_risk_and_weights(margins, problem.log_weight)
        np.testing.assert_allclose(
            solution.log_risk, log_risk, rtol=1e-3 if dtype == np.float32 else 1e-9, atol=1e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize(("p", "q"), [(1, math.inf), (2, math.inf), (math.inf, math.inf), (3, 2)])
def test_a_path_does_not_depend_on_where_its_vectors_lie(p, q):
    X, y = make_teacher_classification(32, 128, teacher_sparsity=4, random_state=0)
    problem, held, paths = problem_of(X, y, q=q, eps=0.07), [], []
    for i in range(3):
        # other places for what is allocated next
        held.append([np.zeros(1 + 13 * j) for j in range(3 * i)])
        paths.append(
            steepest_descent(
                problem, LOSSES["exponential"], LpNorm(p), loss_tol=0, max_iter=200
            ).coef
        )
    for path in paths[1:]:
        np.testing.assert_array_equal(path, paths[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, 1, 3, 6])
def test_room_begins_where_vector_registers_do(dtype, offset):
    room = room_like(np.zeros(31, dtype)[offset:])
    assert room.shape == (31 - offset,)
    assert room.dtype == dtype
    assert room.ctypes.data % 64 == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p", "q", "eps"), [(1, math.inf, 0.07), (math.inf, math.inf, 0.07), (2, 2, 0.3), (3, 1, 0.3)]
)
def test_steps_that_waste_no_more_than_what_is_open_come_closer_to_the_limit(
    p, q, eps, monkeypatch
):
    X, y = make_teacher_classification(40, 80, teacher_sparsity=4, random_state=0)

    def gap(loss_tol, max_iter=1000):
        solution = steepest_descent(
            problem_of(X, y, q=q, eps=eps),
            LOSSES["exponential"],
            LpNorm(p),
            loss_tol=loss_tol,
            tol=1e-9,
            max_iter=max_iter,
        )
        return solution.gap[0]

    limit, path = gap(0), gap(1e-3)
    for way in (FastPaths, RulePath):
        # half of the predicted decrease, always
        monkeypatch.setattr(way, "require_decrease", lambda self, share: None)
    assert limit < 0.85 * gap(0)
    assert path == gap(1e-3)  # which ends long before the limit, and takes long steps


@pytest.mark.pairwise
@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("q", [2, math.inf])
@pytest.mark.parametrize("layout", ["dense", "sparse", "labels apart"])
def test_a_step_in_closed_form_is_that_of_the_rule(gaussian, p, q, layout):
    X, y = gaussian(15, 9)
    labels = np.stack([y, -y])[: 2 if layout == "labels apart" else 1]  # no signed copy then
    problem = problem_of(sparse.csr_array(X) if layout == "sparse" else X, labels, q=q, eps=0.2)
    k, rng = len(labels), np.random.default_rng(0)
    geometry = Geometry((LpNorm(p),) * k)
    for size in (0.0, 1e-3, 1.0):  # at zero, where steps would cross it, and far from it
        coef = size * rng.standard_normal((k, 9)) * (rng.random((k, 9)) < 0.7)
        rule, step = _SteepestDescent(geometry), np.full(k, 0.05)
        paths = FastPaths(problem, LOSSES["exponential"], geometry, rule, coef, step, None)
        for path in paths.paths:
            path._weighted_sum()
            here, closed, ruled = path.here, path.there, _Point(path.here.coef, path.here.scores)
            predicted = path._step_in_closed_form(here, closed)
            if size == 0 and q == 2:
                assert predicted is None
                continue
            norm_in_closed_form = path.iterate().subgradient_norm
            np.testing.assert_allclose(path._step_by_rule(here, ruled), predicted, rtol=1e-9)
            norm_by_rule = path.iterate().subgradient_norm
            np.testing.assert_allclose(norm_by_rule, norm_in_closed_form, rtol=1e-9)
            np.testing.assert_allclose(closed.coef, ruled.coef, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(closed.scores, ruled.scores, rtol=1e-9, atol=1e-12)
            assert not np.array_equal(closed.coef, here.coef)
