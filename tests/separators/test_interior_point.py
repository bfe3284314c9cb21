import itertools
import math

import numpy as np
import pytest
from scipy.linalg import LinAlgError

from sklearn_robust.norms import LpNorm
from sklearn_robust.separators import _newton_system, _standard_form, interior_point
from sklearn_robust.separators._max_margin_form import SolverFailure
from sklearn_robust.separators._newton_system import NewtonSystem
from sklearn_robust.separators._standard_form import StandardForm, State
from sklearn_robust.separators.interior_point import solve_interior_point

INF = math.inf
EXPONENTS = [1.0, 1.5, 2.0, 4.0, INF]
PAIRS = list(itertools.product(EXPONENTS, EXPONENTS))
SHAPES = [(20, 45), (45, 20)]


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(PAIRS)), ids=[str(pair) for pair in PAIRS])
def test_every_pair_reaches_its_gap(max_margin_form, largest_radius, proven_gap, i):
    (p, dual_q), (n, d), intercept = PAIRS[i], SHAPES[i % 2], i % 3 == 0
    star = largest_radius(n, d, dual_q, intercept=intercept)
    for share in (0.0, 0.5, 0.95):
        if p == dual_q and share:
            continue  # the programs shift the radius out
        problem = max_margin_form(n, d, p, dual_q, share * star, intercept=intercept)
        assert proven_gap(problem, solve_interior_point(problem, 1e-8)) <= 1e-7


@pytest.mark.parametrize(("p", "dual_q"), [(1.0, INF), (2.0, 1.0), (INF, 1.0), (1.5, 2.0)])
def test_beyond_the_largest_radius_the_weights_prove_it(
    max_margin_form, largest_radius, proven, p, dual_q
):
    problem = max_margin_form(20, 45, p, dual_q, 1.01 * largest_radius(20, 45, dual_q))
    point = solve_interior_point(problem)
    assert proven(problem, point)[1] == 0
    assert (
        LpNorm(dual_q).dual.value(point.weights @ problem.rows / point.weights.sum()) <= problem.eps
    )


@pytest.mark.parametrize("p", [2.0, INF])
def test_next_to_the_largest_radius_it_takes_few_steps(
    max_margin_form, largest_radius, proven_gap, monkeypatch, p
):
    steps, original = [], interior_point._step
    monkeypatch.setattr(_standard_form, "_SINGLE_ENTRIES", 1)
    monkeypatch.setattr(
        interior_point, "_step", lambda *a, **k: steps.append(1) or original(*a, **k)
    )
    problem = max_margin_form(60, 100, p, 1.0, 0.9999 * largest_radius(60, 100, 1.0))
    steps.clear()
    assert proven_gap(problem, solve_interior_point(problem, 1e-8)) <= 1e-8
    assert len(steps) <= 25


def conditions(form, state):
    """Every optimality condition of a state, complementarity aside, written without any
    elimination."""
    x, t, a = state.coordinates, state.scalars, state.multipliers[form.margins]
    d = form.rows.shape[1]
    in_x = -np.outer(form.signs, a @ form.rows) + (x / d if form.quadratic else 0.0)
    in_t = -(a @ form.border[:, : form.n_primal])
    in_t[0] -= 1
    if form.split:
        in_x = in_x - state.multipliers[form.coordinates].reshape(2, d)
    others = []
    for cap in form.caps:
        radius = 1.0 if cap.radius is None else t[cap.radius]
        slack, multiplier = state.slacks[cap.pairs], state.multipliers[cap.pairs]
        at = x if form.split else np.concatenate([x, -x])
        others.append(radius - at.ravel() - slack)
        multiplier = multiplier.reshape(2, d)
        in_x = in_x + (multiplier if form.split else multiplier[:1] - multiplier[1:])
        if cap.radius is not None:
            in_t[cap.radius] -= multiplier.sum()
    for power in form.powers:
        radius = 1.0 if power.radius is None else t[power.radius]
        e, tau = power.exponent, state.multipliers[power.pair]
        F = np.sum(x**e) / (d * e * radius ** (e - 1)) - radius / e
        others.append([F + state.slacks[power.pair]])
        in_x = in_x + tau * (x / radius) ** (e - 1) / d
        if power.radius is not None:
            in_t[power.radius] += tau * (-(e - 1) / e * np.sum((x / radius) ** e) / d - 1 / e)
    scores = form.rows @ (form.signs @ x) + form.border[:, : form.n_primal] @ t
    return np.concatenate([in_x.ravel(), scores - state.slacks[form.margins], in_t, *others])


def random_state(form, rng):
    """A state whose linear slacks belong to its coordinates, and are positive."""
    start = form.start()
    coordinates = start.coordinates + 0.2 * rng.random(start.coordinates.shape)
    scalars = start.scalars + 0.3 * rng.random(len(start.scalars))
    scalars[0] -= 3  # gamma, below all margins
    multipliers = (0.5 + rng.random(form.n_pairs)) / form.n_pairs
    state = State(coordinates, scalars, np.full(form.n_pairs, 0.4), multipliers)
    state = form.settled(state, form.rows @ (form.signs @ coordinates))
    assert state.slacks.min() > 0.04
    return state


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(("n", "d"), [(6, 9), (9, 6)])
@pytest.mark.parametrize(("p", "dual_q"), PAIRS)
def test_direction_solves_the_linearised_conditions(max_margin_form, p, dual_q, n, d, intercept):
    rng = np.random.default_rng(0)
    form = StandardForm.of(max_margin_form(n, d, p, dual_q, 0.1, intercept=intercept))
    state = random_state(form, rng)
    equations = form.equations(state, state.multipliers[form.margins] @ form.rows)
    target = 0.1 * rng.normal(size=form.n_pairs) / form.n_pairs
    system = NewtonSystem(form, equations)
    right = form.right_side(target, state)
    solution = system.predictor.plus(system.solve(right))
    step = form.step(system.refined(equations.right.plus(right), solution), target, state)
    linear = state.slacks * step.multipliers + state.multipliers * step.slacks
    np.testing.assert_allclose(linear, target - state.slacks * state.multipliers, atol=1e-12)

    def at(h):
        return conditions(
            form, State(*(part + h * move for part, move in zip(state, step, strict=True)))
        )

    here, h = conditions(form, state), 1e-5
    slope = (at(h) - at(-h)) / (2 * h)
    np.testing.assert_allclose(slope, -here, atol=1e-7 * np.abs(here).max())


def test_refinement_that_diverges_ends_the_method_with_its_best_iterate(
    max_margin_form, proven_gap, monkeypatch
):
    problem = max_margin_form(20, 45, 1.0, 1.0, 0.0)
    steps = itertools.count()
    original = NewtonSystem.solve

    def failing(self, *args):
        if next(steps) >= 6:
            raise LinAlgError("refinement diverges")
        return original(self, *args)

    monkeypatch.setattr(NewtonSystem, "solve", failing)
    gap = proven_gap(problem, solve_interior_point(problem, 1e-12))
    assert 1e-12 < gap < 1


def test_no_finite_iterate_is_a_failure(max_margin_form, monkeypatch):
    monkeypatch.setattr(_newton_system, "dpotrf", lambda *args, **options: (np.eye(20), 1))
    with pytest.raises(SolverFailure, match="no finite iterate"):
        solve_interior_point(max_margin_form(20, 45, 1.0, 1.0, 0.0))


def test_light_rows_change_nothing_but_the_cost(max_margin_form, monkeypatch):
    problem = max_margin_form(400, 10, 2.0, 1.0, 0.2)
    heavy = []
    original = NewtonSystem._weighted_rows

    def counted(self, rows):
        rows = original(self, rows)
        heavy.append(len(rows))
        return rows

    monkeypatch.setattr(NewtonSystem, "_weighted_rows", counted)
    with_all = solve_interior_point(problem, 1e-9)
    assert min(heavy) < 400
    monkeypatch.setattr(_newton_system, "_LIGHT_ROWS", 0.0)
    assert_same(with_all, solve_interior_point(problem, 1e-9))


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(("p", "dual_q"), [(1.0, 1.0), (INF, 1.0), (2.0, 2.0)])
def test_rows_that_are_left_out_come_back_where_they_are_needed(
    max_margin_form, proven_gap, monkeypatch, p, dual_q, intercept
):
    problem = max_margin_form(300, 8, p, dual_q, 0.2, intercept=intercept)
    kept, steps, original = [], [], interior_point._kept
    step = interior_point._step
    monkeypatch.setattr(interior_point, "_kept", lambda *a: kept.append(original(*a)) or kept[-1])
    monkeypatch.setattr(interior_point, "_step", lambda *a, **k: steps.append(1) or step(*a, **k))
    assert proven_gap(problem, solve_interior_point(problem, 1e-8)) <= 1e-8
    n_steps = len(steps)
    assert len(kept[0]) == 16
    # the rows of most weight are left out
    monkeypatch.setattr(interior_point, "_kept", lambda form, *_: np.arange(len(form.rows))[::5])
    assert proven_gap(problem, solve_interior_point(problem, 1e-8)) <= 1e-8
    assert len(steps) > 2 * n_steps


def assert_same(one, other):
    np.testing.assert_allclose(
        one.coef / np.linalg.norm(one.coef), other.coef / np.linalg.norm(other.coef), atol=1e-4
    )


def test_certified_below_tol_ends_early(max_margin_form):
    problem = max_margin_form(20, 45, 2.0, 1.0, 0.1)
    calls = []
    original = interior_point._step

    def counted(*args, **options):
        calls.append(1)
        return original(*args, **options)

    for tol, most in ((0.5, 6), (1e-9, 25)):
        calls.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(interior_point, "_step", counted)
            solve_interior_point(problem, tol)
        assert 2 <= len(calls) <= most


@pytest.mark.slow
@pytest.mark.parametrize(("p", "dual_q"), PAIRS)
def test_the_second_order_corrector_keeps_iterations_few(
    max_margin_form, largest_radius, monkeypatch, p, dual_q
):
    """Two programs together take 15 to 26 iterations; without the corrector's second-order terms
    half of the pairs pass 26."""
    problems = []
    for n, d in SHAPES:
        eps = 0.0 if p == dual_q else 0.5 * largest_radius(n, d, dual_q)
        problems.append(max_margin_form(n, d, p, dual_q, eps))
    steps = []
    original = interior_point._step
    monkeypatch.setattr(
        interior_point,
        "_step",
        lambda *args, **options: steps.append(1) or original(*args, **options),
    )
    for problem in problems:
        solve_interior_point(problem, 1e-8)
    assert len(steps) <= 26
