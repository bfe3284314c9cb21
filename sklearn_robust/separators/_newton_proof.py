r"""Weights that prove that no hyperplane separates the classes, by Newton's method.

Newton's equation for the logistic risk of a direction w reads, with :math:`s_i = 1 / (1 +
e^{z_i \cdot w})` and :math:`h_i = s_i (1 - s_i)`,

.. math:: \sum_i h_i z_i z_i^T \, \beta = \sum_i s_i z_i.

The weights :math:`f_i = s_i - h_i \, z_i \cdot \beta` thus cancel, :math:`Z^T f = 0`, at every
iterate. Where all of them are positive they are the proof; where the classes overlap a few steps
reach such an iterate.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.linalg.blas import dsyrk
from scipy.special import expit

from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators._max_margin_form import MaxMarginForm, Vector

_MAX_STEPS = 12  # a handful is usual
_CORRECTIONS = 3  # solutions of an equation, so that its weights cancel up to rounding
ROUNDING = 1e-12  # imbalance that is rounding, which a proof ignores
_RIDGE = 1e-10  # share of the mean pivot that is added: features may repeat each other


def cancelling_newton_weights(program: MaxMarginForm) -> Vector | None:
    """Positive weights (n,) with Z^T f = 0 up to rounding, of equal class sums with an intercept.

    Parameters
    ----------
    program : MaxMarginForm
        Its eps is of no account: what nothing separates, no robust separator does.

    Returns
    -------
    ndarray or None
        None where no iterate proves it, where rounding leaves weights that do not cancel, where all
        rows are zero, and where the samples are no more than the unknowns.
    """
    rows = program.dense().rows
    if program.labels is not None:
        rows = np.column_stack([rows, program.labels])
    units = np.abs(rows).max(axis=0)
    rows = np.ascontiguousarray(rows[:, units > 0] / units[units > 0])
    if not 0 < rows.shape[1] < len(rows):
        return None
    margins = np.zeros(len(rows))
    for _ in range(_MAX_STEPS):
        weights = expit(-margins)
        curvature = weights * (1 - weights)
        system = dsyrk(1.0, (rows * np.sqrt(curvature)[:, None]).T, lower=1)
        pivots = np.einsum("ii->i", system)
        pivots += _RIDGE * pivots.mean()
        try:
            factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            return None
        move = np.zeros(len(rows))
        for _ in range(_CORRECTIONS):
            step = rows @ cho_solve(factor, weights @ rows, check_finite=False)
            weights -= curvature * step
            move += step
        if not np.isfinite(move).all():
            return None
        if weights.min() >= 0:
            sums, sizes = np.abs(weights @ rows), weights @ np.abs(rows)
            return weights if (sums <= ROUNDING * sizes).all() else None
        margins = _after_step(margins, move)
        if margins.min() > 0:  # a separator
            return None
    return None


def _after_step(margins: Vector, move: Vector) -> Vector:
    """The margins after the longest of the steps 1, 1/2, ... that does not increase the risk."""
    before = np.logaddexp(0, -margins).sum()
    while True:
        moved = margins + move
        if np.logaddexp(0, -moved).sum() <= before or np.abs(move).max() < 1e-12:
            return moved
        move = move / 2


def cancels(problem: RobustProblem, weights: Vector) -> bool:
    """Whether Z^T a is zero up to rounding: weights that cancel prove that eps* = 0."""
    return imbalance(problem, weights) <= ROUNDING


def imbalance(problem: RobustProblem, weights: Vector) -> float:
    """The largest coordinate of Z^T a relative to the sum of its terms' sizes.

    It is rounding if a proves that the data are not separable.
    """
    terms = problem.sizes(weights[None])[0]
    weighted_sum = np.abs(problem.weighted_sum(weights[None])[0])
    return float(np.max(weighted_sum / np.where(terms > 0, terms, 1.0)))
