r"""The minimiser of the robust risk against sets that differ from sample to sample, by one program
over exponential cones, certified.

**Program.** With the margins :math:`m_{ik}` of `_pair_programs`, linear in its columns, the log of
the exponential risk is the least :math:`\rho`, and the logistic risk the least :math:`\sum_i s_i
u_i`, with

.. math:: \sum_{ik} e^{\log s_i - m_{ik} - \rho} \le 1, \qquad
    e^{-u_i} + \sum_k e^{-m_{ik} - u_i} \le 1 \text{ for each } i.

Both are held above a risk at which every margin is positive: where it is reached the data are
robustly separable, and the risk has no minimiser.

**Certificate.** The multipliers name weights, and a perturbation of each sample for each rival, in
its set. Both move to where the perturbed rows cancel (`_pair_proofs`), and bound the risk by
Fenchel's dual. Where this ends short, the clean risk of these data bounds it (`_clean_risk`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import sparse

from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._conic_programs import Vector, unit_rows
from sklearn_robust._conic_sets import TERM_ROUNDING
from sklearn_robust._pair_programs import MOST_ENTRIES, PairProgram, n_pair_entries
from sklearn_robust._pair_proofs import least_multiple
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import entropy_bound
from sklearn_robust.losses import Logistic, MarginLoss, is_exponential
from sklearn_robust.solvers._clean_risk import clean_bound

# settings of clarabel, and the weight of half of |W|^2 beside the risk, tried in turn until the gap
# is small: where some classes are separable from others the coefficients grow without limit, and
# without a weight clarabel ends early
_TRIES: tuple[tuple[dict[str, float], float], ...] = tuple(
    ({"static_regularization_constant": 1e-8, "tol": 1e-11, "max_step_fraction": share}, ridge)
    for share, ridge in ((0.9, 0.0), (0.9, 1e-10), (0.99, 1e-12))
)
_SMALL_GAP = 1e-8  # gap of the log-risk at which no other setting is tried
# how far below the loss of one sample of margin 0 the risk may fall, in its logarithm
_BELOW = 2.0


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
    found: list[_Proven] = []
    for settings, ridge in _TRIES:
        if ridge > 0:
            program.conic.square, program.conic.square_weight = program.w, ridge
        try:
            x, z = program.conic.solve(**settings)
        except SolverFailure as error:
            failure = error
            continue
        coef = program.coef(x)
        coef = coef - coef.mean(axis=0)  # a common shift changes nothing
        log_risk = float(problem.evaluate(loss, coef).log_risk)
        of_pairs = program.weights(-z[exponents])
        weights, bound = _bound_of_moved(program, loss, of_pairs, z)
        if log_risk - bound > _SMALL_GAP:
            delta = program.perturbations(z, of_pairs)
            other = clean_bound(program.problem, loss, coef, delta)
            weights, bound = max((weights, bound), other, key=lambda proven: proven[1])
        found.append(_Proven(coef, log_risk, weights, bound))
        best, proof = min(found, key=lambda f: f.log_risk), max(found, key=lambda f: f.bound)
        if best.log_risk - proof.bound <= _SMALL_GAP:
            break
    if not found:
        assert failure is not None
        raise failure
    if proof.weights is None:
        return best.coef, None, -math.inf
    whole = np.zeros((problem.n_classes, len(problem.y)))
    whole[:, problem.log_weight > -math.inf] = proof.weights
    return best.coef, whole, proof.bound


def _bound_of_moved(
    program: PairProgram, loss: MarginLoss, weights: Vector, z: Vector
) -> tuple[Vector | None, float]:
    """The bound of the weights of the program, moved with their perturbations to where the rows
    cancel; None and -inf where these leave their sets.
    """
    # multipliers in units in which the weights sum to 1
    z = z / max(float(weights.sum()), np.finfo(float).tiny)
    multiple, weights = least_multiple(program, program.problem.balanced(weights), z)
    if multiple > 1 + TERM_ROUNDING:
        return None, -math.inf
    return weights, entropy_bound(program.problem, loss, weights)


class _Proven(NamedTuple):
    """Coefficients and their log-risk; weights and the bound that they prove."""

    coef: np.ndarray
    log_risk: float
    weights: np.ndarray | None
    bound: float


def takes_program(problem: JointProblem, loss: MarginLoss) -> bool:
    """Whether `minimise_by_program` serves the loss, and that many pairs."""
    return has_cones(loss) and n_pair_entries(problem) <= MOST_ENTRIES


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
