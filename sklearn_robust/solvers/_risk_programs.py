r"""The minimiser of the robust risk against sets that differ from sample to sample, by one program
over exponential cones, certified.

**Program.** With the margins :math:`m_{ik}` of `_pair_programs`, linear in its columns, the log of
the exponential risk is the least :math:`\rho`, and the logistic risk the least :math:`\sum_i s_i
u_i`, with

.. math:: \sum_{ik} e^{\log s_i - m_{ik} - \rho} \le 1, \qquad
    e^{-u_i} + \sum_k e^{-m_{ik} - u_i} \le 1 \text{ for each } i.

Both are held above a risk at which every margin is positive: where it is reached the data are
robustly separable, and the risk has no minimiser.

**Certificate.** The multipliers name a perturbation :math:`\delta_{ik}` of each sample for each
rival, in its set. They make one data set that the adversary may choose, so that its clean risk
bounds the robust risk of every predictor. Newton's method minimises the clean risk from the
program's answer; there the weights obey :math:`\sum_{ik} a_{ik} (e_{y_i} - e_k) (x_i +
\delta_{ik})^T = 0`, and prove the bound by Fenchel's dual.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._conic_programs import Vector, unit_rows
from sklearn_robust._conic_sets import TERM_ROUNDING
from sklearn_robust._joint_sets import GivenPerturbations
from sklearn_robust._pair_programs import PairProgram
from sklearn_robust.joint import JointEvaluation, JointProblem
from sklearn_robust.joint_certificates import entropy_bound
from sklearn_robust.losses import Logistic, MarginLoss, is_exponential

# settings of clarabel, tried in turn: the first reaches the smaller gaps
_SETTINGS: tuple[dict[str, float], ...] = (
    {"static_regularization_constant": 1e-8, "tol": 1e-11},
    {"static_regularization_constant": 1e-8, "tol": 1e-9, "max_step_fraction": 0.99},
)
# how far below the loss of one sample of margin 0 the risk may fall, in its logarithm
_BELOW = 2.0
# Newton's method on the clean risk
_MOST_STEPS = 30
_HALVINGS = 20  # halvings of a step at most
_RIDGE = 1e-13  # relative to the Hessian's diagonal: a common shift of all classes changes nothing


def minimise_by_program(
    problem: JointProblem, loss: MarginLoss
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """The minimiser of the joint robust risk against the sets of the samples.

    Parameters
    ----------
    problem : JointProblem
        In double arithmetic, on an array, with `JointSets`.
    loss : MarginLoss
        The exponential or the logistic loss.

    Returns
    -------
    coef : ndarray of shape (K, d)
        One of the predictors that separate, where the data are separable.
    weights : ndarray of shape (K, n) or None
        They prove the bound; None where nothing is proven.
    bound : float
        A lower bound on the log-risk of every predictor; -inf if nothing is proven.

    Raises
    ------
    ValueError
        For another loss, sets that are not in cones, or too many pairs.
    SolverFailure
        If every setting of the solver fails.
    """
    if not has_cones(loss):
        raise ValueError(
            f"loss={loss!r} against sets that differ from sample to sample needs cones of its own: "
            f"use loss='exponential' or 'logistic', or a set that all samples share."
        )
    program = PairProgram(problem)
    add_objective = _add_exponential if is_exponential(loss) else _add_logistic
    exponents = add_objective(program)
    failure: SolverFailure | None = None
    best: tuple[np.ndarray, np.ndarray | None, float] | None = None
    for settings in _SETTINGS:
        try:
            x, z = program.conic.solve(**settings)
        except SolverFailure as error:
            failure = error
            continue
        coef = program.coef(x)
        coef = coef - coef.mean(axis=0)  # a common shift changes nothing
        weights = program.weights(-z[exponents])
        delta = program.perturbations(z, weights)
        best = coef, *_clean_bound(program.problem, loss, coef, delta)
        if best[2] > -math.inf:
            break
    if best is None:
        assert failure is not None
        raise failure
    coef, proof, bound = best
    if proof is not None:
        whole = np.zeros((problem.n_classes, len(problem.y)))
        whole[:, problem.log_weight > -math.inf] = proof
        proof = whole
    return coef, proof, bound


def has_cones(loss: MarginLoss) -> bool:
    """Whether the risk is in exponential cones."""
    return is_exponential(loss) or type(loss) is Logistic


def _add_exponential(program: PairProgram) -> Vector:
    """The objective of the exponential loss; the rows of the pairs' exponents."""
    conic, N = program.conic, program.n_pairs
    rho, v = conic.columns.take(1), conic.columns.take(N)
    at = 3 * np.arange(N)
    first, last = unit_rows(at, 3 * N).T, unit_rows(at + 2, 3 * N).T
    terms = [(columns, -(first @ sparse.csr_array(part))) for columns, part in program.terms]
    constant = np.zeros(3 * N)
    constant[at] = program.problem.log_weight[program.samples]
    constant[at + 1] = 1.0
    terms += [(rho, -(first @ np.ones((N, 1)))), (v, last)]
    rows = conic.add_rows([("exponential", 1.0)] * N, terms, constant)
    conic.add_rows([("nonnegative", 1)], [(v, -np.ones((1, N)))], np.ones(1))
    least = float(program.problem.log_weight.min()) - _BELOW
    conic.add_rows([("nonnegative", 1)], [(rho, np.ones((1, 1)))], np.full(1, -least))
    conic.linear[rho.start] = 1.0
    return rows.start + at


def _add_logistic(program: PairProgram) -> Vector:
    """The objective of the logistic loss; the rows of the pairs' exponents."""
    conic, N = program.conic, program.n_pairs
    n = len(program.problem.y)
    u, v = conic.columns.take(n), conic.columns.take(N + n)
    at = 3 * np.arange(N + n)
    first, last = unit_rows(at, 3 * (N + n)).T, unit_rows(at + 2, 3 * (N + n)).T
    of_pairs = first[:, :N]
    terms = [(columns, -(of_pairs @ sparse.csr_array(part))) for columns, part in program.terms]
    owner = np.concatenate([program.samples, np.arange(n)])
    constant = np.zeros(3 * (N + n))
    constant[at + 1] = 1.0
    terms += [(u, -(first @ unit_rows(owner, n))), (v, last)]
    rows = conic.add_rows([("exponential", 1.0)] * (N + n), terms, constant)
    conic.add_rows([("nonnegative", n)], [(v, -unit_rows(owner, n).T)], np.ones(n))
    shares = np.exp(program.problem.log_weight)
    least = math.log(2) * math.exp(-_BELOW) * float(shares.min())
    conic.add_rows([("nonnegative", 1)], [(u, shares[None])], np.full(1, -least))
    conic.linear |= dict(zip(range(u.start, u.stop), shares.tolist(), strict=True))
    return rows.start + at[:N]


# -- the clean risk of the data that the adversary chose


def _clean_bound(
    problem: JointProblem, loss: MarginLoss, coef: np.ndarray, delta: np.ndarray
) -> tuple[np.ndarray | None, float]:
    """Weights (K, n) at the minimiser of the clean risk of the perturbed data, and the bound on the
    log-risk that they prove; None and -inf where Newton's method does not get there.
    """
    members = tuple(np.flatnonzero(problem.y == k) for k in range(problem.n_classes))
    clean = replace(problem, adversary=GivenPerturbations(members, delta), radius=1.0)
    rows = _PerturbedRows(clean, members, delta)
    now = clean.evaluate(loss, coef)
    for _ in range(_MOST_STEPS):
        weights = clean.balanced(now.weights)
        if rows.cancel(weights):
            return weights, entropy_bound(clean, loss, weights)
        if float(now.margins.min()) > 0:
            break  # the risk has no minimiser
        step = rows.newton_step(loss, now)
        if step is None:
            break
        moved = _lower(clean, loss, coef, step, now)
        if moved is None:
            break
        coef, now = moved
    return None, -math.inf


def _lower(
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


class _PerturbedRows:
    """The rows x_i + delta_ik, and sums over them."""

    def __init__(
        self, problem: JointProblem, members: tuple[np.ndarray, ...], delta: np.ndarray
    ) -> None:
        self.problem, self.members = problem, members
        X = problem.X.toarray() if sparse.issparse(problem.X) else problem.X
        self.X = X + delta
        labels = [np.ones((*delta.shape[:2], 1))] if problem.fit_intercept else []
        centre = X.mean(axis=0) if problem.fit_intercept else 0.0
        self.units = np.sqrt(np.mean((X - centre) ** 2, axis=0))
        self.units[self.units == 0] = 1.0
        # in units of the features, for the Newton steps
        self.centred = np.concatenate([(self.X - centre) / self.units, *labels], axis=-1)

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

    def newton_step(self, loss: MarginLoss, now: JointEvaluation) -> np.ndarray | None:
        """The step in W (K, d) of Newton's method on the clean risk, over W and the intercepts."""
        K, _, p = self.centred.shape
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
            rows = self.centred[:, at]
            for k in rivals:
                plain = (rows[k] * now.weights[k, at, None]).T @ rows[k]
                self._add(H, low, k, k, plain)
            mixed = np.einsum("km,kmp->kmp", shares[:, at], rows)
            flat = mixed[rivals].transpose(1, 0, 2).reshape(len(at), -1)
            gram = (flat * beyond[at, None]).T @ flat
            gram = gram.reshape(len(rivals), p, len(rivals), p)
            for i, k in enumerate(rivals):
                for j, other in enumerate(rivals):
                    self._add(H, low, k, other, gram[i, :, j])
        matrix = H.transpose(0, 2, 1, 3).reshape(K * p, K * p)
        size = np.sqrt(np.maximum(np.diag(matrix), np.finfo(float).tiny))
        matrix = matrix / np.outer(size, size)
        matrix.flat[:: K * p + 1] += _RIDGE * K * p
        goal = self.weighted_sum(self.centred, now.weights).ravel() / size
        try:
            step = cho_solve(cho_factor(matrix), goal) / size
        except LinAlgError:
            return None
        step = step.reshape(K, p)[:, : self.problem.n_features] / self.units
        return step if np.isfinite(step).all() else None

    @staticmethod
    def _add(H: np.ndarray, low: int, k: int, other: int, part: np.ndarray) -> None:
        """Add the block of the margins against k and another rival of class `low`."""
        H[low, low] += part
        H[k, other] += part
        H[low, other] -= part
        H[k, low] -= part
