r"""Directions in which the joint risk falls without end: where all margins grow or stay, and some
grow, the risk has no minimiser.

With margins :math:`m_{ik}(V)` of a direction V the pairs of a sample and a rival that some such
direction moves are those with :math:`\xi_{ik} = 1` in the solution of the cone program

.. math:: \max_{V, \xi} \sum_{ik} \xi_{ik} \quad \text{subject to} \quad m_{ik}(V) \ge \xi_{ik},
    \; 0 \le \xi_{ik} \le 1,

for directions add up. Dual weights vanish on these pairs. If they are all pairs, V separates the
classes; if they are none, the risk has a minimiser; otherwise its infimum is the minimum of the
risk of the other pairs, which W + cV approaches as c grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sklearn_robust._clarabel import SolverFailure
from sklearn_robust._conic_programs import ConicProgram, score_differences, unit_rows
from sklearn_robust.solvers._joint_model import JointModel
from sklearn_robust.solvers._joint_start import PairDifferences

# entries of the rows of the program at most: programs of so many take some seconds
_MOST_ENTRIES = 1_000_000
# weight of the square of the direction in a program with cones, which is not unique: so small that
# sizes of some thousands cost less than one pair
_RIDGE = 1e-8
_REGULARISATION = 1e-8  # ridge of the linear systems: columns may depend on each other
_GROWS = 0.5  # xi from which a pair counts as moved; it is 0 or 1 but for the solver's error
_ERROR = 0.1  # largest error of the margins in an answer


@dataclass(frozen=True)
class Recession:
    """A direction in which the risk falls without end.

    Attributes
    ----------
    coef : ndarray of shape (K, d + 1)
        The direction, in units of the model.
    grows : ndarray of bool of shape (K, n)
        The pairs of a sample and a rival whose margins grow along it.
    separates : bool
        Whether these are all pairs.
    """

    coef: np.ndarray
    grows: np.ndarray
    separates: bool


def recession(model: JointModel, differences: PairDifferences) -> Recession | None:
    """The direction that moves the most pairs; None where there is none, where the program is too
    large, and where its solver fails.
    """
    problem, K = model.problem, model.problem.n_classes
    used = np.flatnonzero(model.used)
    y = problem.y[used]
    n_columns = problem.n_features + int(problem.fit_intercept)
    if 2 * len(used) * (K - 1) * n_columns > _MOST_ENTRIES:
        return None
    features = model.features(used)[:, :n_columns]
    samples, rivals = np.nonzero((y != np.arange(K)[:, None]).T)
    m = len(samples)
    conic = ConicProgram()
    w, xi = conic.columns.take(K * n_columns), conic.columns.take(m)
    identity = sparse.eye_array(m, format="csr")
    terms = [(w, score_differences(features, samples, y[samples], rivals, K)), (xi, -identity)]
    P = len(model.low)
    if P:
        t = conic.columns.take(P)
        of_pair = unit_rows(model.pair_index[y[samples], rivals], P)
        terms.append((t, -model.radius * of_pair))
        r = len(differences.columns)
        reached = sparse.csr_array(
            (differences.scale, (np.arange(r), differences.columns)), shape=(r, n_columns)
        )
        rows = sparse.kron(differences.incidence, reached, format="csr")
        conic.add_norms(w, rows, t, problem.threat.dual_norm.p)
    conic.add_rows([("nonnegative", m)], terms, np.zeros(m))
    conic.add_rows([("nonnegative", m)], [(xi, identity)], np.zeros(m))
    conic.add_rows([("nonnegative", m)], [(xi, -identity)], np.ones(m))
    # a common shift of all classes changes nothing
    conic.add_zero_sum(w, K)
    conic.linear = dict.fromkeys(range(xi.start, xi.stop), -1.0)
    try:
        if not conic.is_linear:
            conic.square, conic.square_weight = w, _RIDGE
        x, _ = conic.solve(static_regularization_constant=_REGULARISATION)
    except SolverFailure:
        return None
    moved = x[xi] > _GROWS
    margins = sum(matrix @ x[columns] for columns, matrix in terms) + x[xi]
    if not moved.any() or not np.all(margins >= moved - _ERROR):
        return None
    coef = np.zeros((K, problem.n_features + 1))
    coef[:, :n_columns] = x[w].reshape(K, n_columns)
    grows = np.zeros((K, len(problem.y)), dtype=bool)
    grows[rivals[moved], used[samples[moved]]] = True
    return Recession(coef, grows, bool(moved.all()))
