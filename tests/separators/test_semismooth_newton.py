import numpy as np
import pytest

from sklearn_robust.separators import semismooth_newton
from sklearn_robust.separators._max_margin_form import SolverFailure
from sklearn_robust.separators.interior_point import solve_interior_point
from sklearn_robust.separators.semismooth_newton import solve_semismooth_newton


def count_steps(monkeypatch):
    steps = []
    original = semismooth_newton._newton_step
    monkeypatch.setattr(
        semismooth_newton, "_newton_step", lambda *args: steps.append(1) or original(*args)
    )
    return steps


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_ends_exactly_where_the_interior_point_method_tends_to(
    max_margin_form, largest_radius, proven_gap, share
):
    problem = max_margin_form(25, 60, 2.0, 1.0, share * largest_radius(25, 60, 1.0))
    point = solve_semismooth_newton(problem, 1e-9)
    assert proven_gap(problem, point) <= 1e-9
    other = solve_interior_point(problem, 1e-11)
    np.testing.assert_allclose(
        point.coef / np.abs(point.coef).sum(), other.coef / np.abs(other.coef).sum(), atol=1e-6
    )


def test_weights_of_a_smaller_radius_save_steps(max_margin_form, largest_radius, monkeypatch):
    star = largest_radius(25, 60, 1.0)
    near = solve_semismooth_newton(max_margin_form(25, 60, 2.0, 1.0, 0.78 * star))
    steps = count_steps(monkeypatch)
    cold = solve_semismooth_newton(max_margin_form(25, 60, 2.0, 1.0, 0.8 * star))
    n_cold = len(steps)
    warm = solve_semismooth_newton(
        max_margin_form(25, 60, 2.0, 1.0, 0.8 * star), start=near.weights
    )
    assert len(steps) - n_cold < n_cold
    np.testing.assert_allclose(warm.coef, cold.coef, rtol=1e-6, atol=1e-9)


def test_beyond_the_largest_radius_the_weights_prove_it(max_margin_form, largest_radius, proven):
    problem = max_margin_form(25, 60, 2.0, 1.0, 5 * largest_radius(25, 60, 1.0))
    assert proven(problem, solve_semismooth_newton(problem))[1] == 0


def test_repeated_rows(max_margin_form, proven_gap):
    problem = max_margin_form(10, 60, 2.0, 1.0, 0.1)
    problem.rows[5:] = problem.rows[:5]
    assert proven_gap(problem, solve_semismooth_newton(problem)) <= 1e-9


def test_too_few_steps_are_a_failure(max_margin_form, monkeypatch):
    monkeypatch.setattr(semismooth_newton, "_MAX_NEWTON_STEPS", 2)
    with pytest.raises(SolverFailure, match="not converged in 2 steps"):
        solve_semismooth_newton(max_margin_form(25, 60, 2.0, 1.0, 0.5))


def test_no_decrease_is_a_failure(max_margin_form, monkeypatch):
    monkeypatch.setattr(semismooth_newton, "_newton_step", lambda gram, gradient: gradient)
    with pytest.raises(SolverFailure, match="no step decreases the dual"):
        solve_semismooth_newton(max_margin_form(25, 60, 2.0, 1.0, 0.5))


@pytest.mark.parametrize(("n_steps", "expected"), [(8, [True]), (1, [True, False])])
def test_products_in_single_precision_end_as_exactly(
    max_margin_form, proven_gap, monkeypatch, n_steps, expected
):
    """After too many steps products are made anew, in double precision."""
    problem = max_margin_form(10, 60, 2.0, 1.0, 0.0)
    problem.rows[5:] += problem.rows[:5]
    precisions = []
    original = semismooth_newton._gram
    monkeypatch.setattr(semismooth_newton, "_SINGLE_ENTRIES", 1)
    monkeypatch.setattr(semismooth_newton, "_SINGLE_STEPS", n_steps)
    monkeypatch.setattr(
        semismooth_newton,
        "_gram",
        lambda Z, *, single: precisions.append(single) or original(Z, single=single),
    )
    assert proven_gap(problem, solve_semismooth_newton(problem)) <= 1e-11
    assert precisions == expected


def test_next_to_the_largest_radius_it_gives_up_at_once(
    max_margin_form, largest_radius, monkeypatch
):
    steps = count_steps(monkeypatch)
    problem = max_margin_form(25, 60, 2.0, 1.0, 0.99 * largest_radius(25, 60, 1.0))
    with pytest.raises(SolverFailure, match="close to"):
        solve_semismooth_newton(problem)
    assert len(steps) < 6
