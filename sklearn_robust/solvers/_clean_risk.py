r"""The clean joint risk of data that the adversary may choose, which bounds the robust risk.

A perturbation :math:`\delta_{ik}` of each sample for each rival, in its set, makes one data set
whose clean risk bounds the robust risk of every predictor. Newton's method minimises it from a
predictor near the robust one; there the weights obey :math:`\sum_{ik} a_{ik} (e_{y_i} - e_k) (x_i +
\delta_{ik})^T = 0`, and prove the bound by Fenchel's dual.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from sklearn_robust._conic_sets import TERM_ROUNDING
from sklearn_robust._joint_sets import GivenPerturbations
from sklearn_robust.joint import JointEvaluation, JointProblem
from sklearn_robust.joint_certificates import entropy_bound
from sklearn_robust.losses import MarginLoss

_MOST_STEPS = 30
_HALVINGS = 20  # halvings of a step at most
_VANISHING = 1e-10  # weights of samples, relative to the largest, that are put to zero for a proof
_RIDGE = 1e-16  # relative to the Hessian's diagonal, times its order


def clean_bound(
    problem: JointProblem, loss: MarginLoss, coef: np.ndarray, delta: np.ndarray
) -> tuple[np.ndarray | None, float]:
    """Weights (K, n) at the minimiser of the clean risk of the perturbed data, and the bound on the
    log-risk that they prove; None and -inf where Newton's method does not get there.

    Where the risk has no minimiser the margins of some samples may grow without end, such as those
    of a category of one class. Their weights vanish, and the others alone prove the bound.
    """
    members = tuple(np.flatnonzero(problem.y == k) for k in range(problem.n_classes))
    clean = replace(problem, adversary=GivenPerturbations(members, delta), radius=1.0)
    rows = PerturbedRows(clean, members, delta)
    coef, weights, proven = _minimise(clean, rows, loss, coef)
    of_sample = weights.sum(axis=0)
    vanishing = of_sample <= _VANISHING * of_sample.max()
    in_all = all((~vanishing[at]).any() for at in members)  # samples that are left
    if not proven and in_all and vanishing[clean.log_weight > -math.inf].any():
        rest = replace(clean, log_weight=np.where(vanishing, -math.inf, clean.log_weight))
        _, weights, proven = _minimise(rest, rows, loss, coef)
    return (weights, entropy_bound(clean, loss, weights)) if proven else (None, -math.inf)


def _minimise(
    clean: JointProblem, rows: PerturbedRows, loss: MarginLoss, coef: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Where Newton's method ends, its weights (K, n), and whether these cancel the rows."""
    now = clean.evaluate(loss, coef)
    for _ in range(_MOST_STEPS):
        weights = clean.balanced(now.weights)
        if rows.cancel(weights):
            return coef, weights, True
        if float(now.margins.min()) > 0:
            return coef, weights, False  # the data are separable
        step = rows.newton_step(loss, now)
        if step is None:
            break
        moved = lower_along(clean, loss, coef, step, now)
        if moved is None:
            break
        coef, now = moved
    weights = clean.balanced(rows.cancelling(weights))
    return coef, weights, rows.cancel(weights)


def lower_along(
    problem: JointProblem,
    loss: MarginLoss,
    coef: np.ndarray,
    step: np.ndarray,
    now: JointEvaluation,
) -> tuple[np.ndarray, JointEvaluation] | None:
    """The point along a step whose risk is not larger, up to rounding."""
    room = TERM_ROUNDING * max(1.0, abs(float(now.log_risk)))
    for halvings in range(_HALVINGS):
        moved = coef + 0.5**halvings * step
        ahead = problem.evaluate(loss, moved, near=now.intercept)
        if float(ahead.log_risk) <= float(now.log_risk) + room:
            return moved, ahead
    return None


class PerturbedRows:
    """The rows x_i + delta_ik, and sums over them."""

    def __init__(
        self, problem: JointProblem, members: tuple[np.ndarray, ...], delta: np.ndarray
    ) -> None:
        self.problem, self.members = problem, members
        self.clean = problem.X.toarray() if sparse.issparse(problem.X) else problem.X
        self.X = self.clean + delta

    def weighted_sum(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The sum of a_ik (e_y - e_k) times rows (K, n, p): weights (K, n) -> (K, p)."""
        total = -np.einsum("kn,knp->kp", weights, rows)
        for k, at in enumerate(self.members):
            total[k] += np.einsum("kn,knp->p", weights[:, at], rows[:, at])
        return total

    def cancel(self, weights: np.ndarray) -> bool:
        """Whether the weighted sum of the perturbed rows is 0 up to rounding."""
        sum_ = self.weighted_sum(self.X, weights)
        sizes = np.einsum("kn,knp->p", weights, np.abs(self.X))
        return bool(np.all(np.abs(sum_) <= TERM_ROUNDING * sizes))

    def cancelling(self, weights: np.ndarray) -> np.ndarray:
        r"""The weights, moved by the least :math:`\sum_{ik} \Delta_{ik}^2 / a_{ik}` to where the
        perturbed rows cancel.

        Coefficients far out, where the risk falls towards infinity, leave their own rounding in the
        margins and so in the weights.
        """
        rows, _ = self._in_units
        K, _, p = rows.shape
        low, (rival, sample) = self.problem.y, np.nonzero(weights)
        pairs = np.arange(len(sample))
        terms = np.zeros((K, p, len(sample)))
        terms[low[sample], :, pairs] = rows[rival, sample]
        terms[rival, :, pairs] -= rows[rival, sample]
        root = np.sqrt(weights[rival, sample])
        excess = self.weighted_sum(rows, weights).ravel()
        change = np.linalg.lstsq(terms.reshape(K * p, -1) * root, -excess, rcond=None)[0]
        moved = weights.copy()
        moved[rival, sample] = np.maximum(moved[rival, sample] + root * change, 0)
        return moved

    def newton_step(
        self, loss: MarginLoss, now: JointEvaluation, curvatures: np.ndarray | None = None
    ) -> np.ndarray | None:
        """The step in W (K, d) of Newton's method on the clean risk, over W and the intercepts.

        `curvatures` (K, K, d), by class and rival, are those of penalties in the entries of w_k -
        w_l.
        """
        centred, units = self._in_units
        K, _, p = centred.shape
        of_sample = now.weights.sum(axis=0)
        curvature = loss.curvature(now.soft_margins, of_sample)
        shares = np.divide(
            now.weights, of_sample, out=np.zeros_like(now.weights), where=of_sample > 0
        )
        # C_i = a_i diag(pi_i) + (c_i - a_i) pi_i pi_i^T in the margins of sample i
        beyond = np.where(np.isfinite(curvature), curvature, 0.0) - of_sample
        H = np.zeros((K, K, p, p))
        for low, at in enumerate(self.members):
            rivals = [k for k in range(K) if k != low]
            rows = centred[rivals][:, at]
            mixed = (shares[rivals][:, at, None] * rows).transpose(1, 0, 2).reshape(len(at), -1)
            gram = (mixed * beyond[at, None]).T @ mixed
            gram = gram.reshape(K - 1, p, K - 1, p).transpose(0, 2, 1, 3)
            weighted = now.weights[rivals][:, at, None] * rows
            gram[range(K - 1), range(K - 1)] += weighted.transpose(0, 2, 1) @ rows
            # the margin against k is that of e_low - e_k
            H[np.ix_(rivals, rivals)] += gram
            H[low, rivals] -= gram.sum(axis=0)
            H[rivals, low] -= gram.sum(axis=1)
            H[low, low] += gram.sum(axis=(0, 1))
        if curvatures is not None:
            self._add_curvatures(H, curvatures / units**2)
        matrix = H.transpose(0, 2, 1, 3).reshape(K * p, K * p)
        size = np.sqrt(np.maximum(np.diag(matrix), np.finfo(float).tiny))
        matrix = matrix / np.outer(size, size)
        self._fix_shifts(matrix, size, K)
        matrix.flat[:: K * p + 1] += _RIDGE * K * p
        goal = self.weighted_sum(centred, now.weights).ravel() / size
        if not np.isfinite(matrix).all():  # margins that overflow
            return None
        try:
            step = cho_solve(cho_factor(matrix), goal) / size
        except LinAlgError:
            return None
        step = step.reshape(K, p)[:, : self.problem.n_features] / units
        return step if np.isfinite(step).all() else None

    @cached_property
    def _in_units(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows, with a column for the intercept, in units (d,) of the features."""
        centre, ones = 0.0, []
        if self.problem.fit_intercept:
            centre, ones = self.clean.mean(axis=0), [np.ones((*self.X.shape[:2], 1))]
        units = np.sqrt(np.mean((self.clean - centre) ** 2, axis=0))
        units[units == 0] = 1.0
        return np.concatenate([(self.X - centre) / units, *ones], axis=-1), units

    @staticmethod
    def _fix_shifts(matrix: np.ndarray, size: np.ndarray, n_classes: int) -> None:
        """Add a curvature in the direction of each common shift of all classes, which changes
        nothing, in the units of `size` (K p,).
        """
        shifts = size.reshape(n_classes, -1)
        shifts = shifts / np.linalg.norm(shifts, axis=0)
        p = shifts.shape[1]
        blocks = matrix.reshape(n_classes, p, n_classes, p)
        blocks[:, range(p), :, range(p)] += np.einsum("kp,lp->pkl", shifts, shifts)

    def _add_curvatures(self, H: np.ndarray, curvatures: np.ndarray) -> None:
        """Add curvatures in the entries of the differences of two classes, in their units."""
        d = self.problem.n_features
        features = np.arange(d)
        between = curvatures + curvatures.transpose(1, 0, 2)
        for low, high in zip(*self.problem.pairs, strict=True):
            part = between[low, high]
            for one, other, sign in (
                (low, low, 1),
                (high, high, 1),
                (low, high, -1),
                (high, low, -1),
            ):
                H[one, other, features, features] += sign * part
