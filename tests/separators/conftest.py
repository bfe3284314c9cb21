import numpy as np
import pytest

from sklearn_robust.separators._max_margin_form import MaxMarginForm


def draw_program(n, d, p, dual_q, eps, *, intercept=False, seed=0):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=d)
    y = np.where(np.arange(n) % 3, 1.0, -1.0)
    w /= np.linalg.norm(w)
    rows = rng.normal(size=(n, d))
    rows += np.outer(1 + rng.random(n) - rows @ w, w)  # w has a margin of 1 at least
    return MaxMarginForm(rows, y if intercept else None, p, dual_q, eps)


@pytest.fixture
def max_margin_form():
    """A function that draws a separable program of n rows and d columns."""
    return draw_program


@pytest.fixture
def proven():
    """A function that returns the margin and the bound that a point proves."""

    def sides(program, point):
        certified = program.certify(point, weighted_sum=program.rows.T @ point.weights)
        return certified.margin, certified.bound

    return sides


@pytest.fixture
def proven_gap():
    return lambda program, point: program.certify(point).gap


@pytest.fixture
def largest_radius(proven):
    """A function that returns eps* of a drawn program."""
    from sklearn_robust.separators.interior_point import solve_interior_point

    def radius(n, d, dual_q, **options):
        star = draw_program(n, d, dual_q, dual_q, 0.0, **options)
        return proven(star, solve_interior_point(star, 1e-10))[0]

    return radius
