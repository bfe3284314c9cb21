r"""Steepest descent in the p-norm on the robust risk, towards the separator of least p-norm.

One step is :math:`w \leftarrow w - \eta \|v\|_{p^*} u`, with v the subgradient of the log-risk that
is least in the dual norm and u its steepest direction in the p-norm: p = 2 is gradient descent, p =
1 coordinate descent, p = inf sign descent (Tsilivis et al. 2024, eq. 25 and Theorem 4.3). Descent
on log L follows the same path as descent on L at another rate, and nothing underflows. Two rules
keep the discrete path on the flow where the penalty eps ||w||_q* has kinks: v is the minimum-norm
subgradient, and no step jumps over a kink - a coordinate that would change sign stops at zero (q =
inf), one that would overtake the largest stops level with it (q = 1). For p = 2 and q = inf the
proximal step does both: a soft threshold follows the step along the weighted sum.

The adaptive step is the line search: for p = 1 a step by the curvature of each coordinate saved no
steps beside it. Paths themselves are not accelerated: `accelerated_margin` finds their limit in
every p-norm, and the exact separator takes the time of about 500 steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sklearn_robust._array_api import Array, like, namespace, to_numpy
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import LpNorm, Norm
from sklearn_robust.problems import Evaluation, RobustProblem
from sklearn_robust.rows import Rows, largest_entry
from sklearn_robust.solvers._descent import DescentPath, DescentRun, Stopping, follow
from sklearn_robust.solvers._fast_path import FastPaths, serves
from sklearn_robust.solvers._geometry import Geometry, neighbours
from sklearn_robust.solvers._rule_path import RulePath, State
from sklearn_robust.solvers.solution import Monitor, Solution
from sklearn_robust.threats import (
    KinkedThreat,
    ProximalThreat,
    reach,
    require,
    residual,
    steepest_subgradient,
    takes_proximal_steps,
)

STEEPEST_GROWTH = 1.05  # factor on the adaptive step after an accepted trial


def steepest_descent(
    problem: RobustProblem,
    loss: MarginLoss,
    norm: Norm | Sequence[Norm],
    *,
    step_size: float | str = "adaptive",
    max_iter: int = 50_000,
    loss_tol: float = 1e-3,
    tol: float = 1e-3,
    stop_if_not_separable: bool = False,
    gives_up: bool = False,
    coef_init: Array | None = None,
    record_every: int = 0,
    monitors: Sequence[Monitor] = (),
) -> Solution:
    r"""Follow the path of steepest descent of the robust risk.

    Parameters
    ----------
    problem : RobustProblem
        k problems; each stops on its own.
    loss : MarginLoss
    norm : Norm or sequence of k Norm
        The geometry of all problems or of each: an `LpNorm`, or a norm of one's own.
    step_size : "adaptive", "paper" or float
        Step on the log-risk. "adaptive" backtracks: a step is accepted if it brings half of the
        predicted decrease; with loss_tol = 0, where the path goes on to its limit, the fraction 1 -
        min(1/2, gap), with the certified gap: a step may lose no more than the share that is still
        open. "paper" is the constant 1/B^2, :math:`B = \max_{ij} |x_{ij}| + \epsilon`.
    max_iter : int
        Passes over the data at most.
    loss_tol : float
        A problem is done when the sum of its robust losses falls below this; 0 trains on to `tol`.
    tol : float
        A problem is done when its certified gap falls below this: of the margin where the data are
        robustly separable, of the risk where they are not.
    stop_if_not_separable : bool
        Stop a problem as soon as its data are proven not to be robustly separable: its limit, the
        minimiser of the risk, is then the same for every geometry, and `minimise_robust_risk`
        reaches it faster.
    gives_up : bool
        Stop a problem as soon as its loss and its gap fall too slowly to reach loss_tol or tol
        within max_iter: its limit is then a task for the exact separator.
    coef_init : array of shape (k, d), optional
        Start; zero by default.
    record_every : int
        Record log-risk, margin, bound and gap every so many iterations; 0 records nothing.
    monitors : sequence of Monitor, optional
        Shown predictors and figures at iterations of their choice. They change no iteration; each
        may stop the solver.

    Returns
    -------
    Solution
    """
    problem.require_one_set("steepest_descent", one_radius=True)
    problem = problem.simplified()
    norms = list(norm) if isinstance(norm, Sequence) else [norm] * problem.n_problems
    _require_steps(problem, norms)
    # problems of one geometry are neighbours, and computed together
    order = neighbours(norms)
    geometry, problem = Geometry(tuple(norms[i] for i in order)), problem.select(order)
    xp = namespace(problem.y)
    zeros = xp.zeros(
        (problem.n_problems, problem.n_features), dtype=problem.y.dtype, device=problem.y.device
    )
    coef = zeros if coef_init is None else like(zeros, to_numpy(coef_init))[order]
    step = (
        paper_step(problem.rows, problem.threat, problem.radius)
        if isinstance(step_size, str)
        else xp.full_like(problem.log_total_weight, float(step_size))
    )
    stopping = Stopping(
        max_iter, loss_tol, tol, stop_if_not_separable, record_every, monitors, gives_up
    )
    growth = STEEPEST_GROWTH if step_size == "adaptive" else None
    rule = _SteepestDescent(geometry)
    path: DescentPath
    if serves(problem, geometry):
        path = FastPaths(problem, loss, geometry, rule, coef, step, growth)
    else:
        path = RulePath(problem, loss, rule, (coef,), step, growth)
    # the risk may overflow at a trial step, which is then evaluated with a shift
    with np.errstate(over="ignore", invalid="ignore"):
        return follow(path, DescentRun(problem, stopping, loss, geometry, order))


def descent_grid(
    problem: RobustProblem,
    loss: MarginLoss,
    p: Sequence[float],
    eps: Sequence[float],
    **options: Any,
) -> Solution:
    """The paths of every geometry at every radius on the same data, certified together.

    Parameters
    ----------
    problem : RobustProblem
        k problems: labels of classes, or weights of folds. Their own radii are not used.
    loss : MarginLoss
    p : sequence of float
        Geometries.
    eps : sequence of float
        Radii.
    **options
        Those of `steepest_descent`.

    Returns
    -------
    Solution
        The paths of len(p) * len(eps) * k problems in this order;
        `coef.reshape(len(p), len(eps), k, d)` separates them.

    Notes
    -----
    Each problem follows the path that it would take alone, up to rounding: certificates are taken
    of all problems at once, and scores that are updated by columns (p = 1) are then computed again
    from the coefficients. Adaptive steps work at the edge of stability, where rounding grows with
    the iterations. The certificate of each is its own.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.losses import LOSSES
    >>> X, y = np.array([[2.0, 1.0], [1.0, 2.0], [-1.0, -1.0]]), np.array([1.0, 1.0, -1.0])
    >>> problem = RobustProblem.from_data(X, y, q=np.inf, eps=0, fit_intercept=False)
    >>> solution = descent_grid(problem, LOSSES["exponential"], p=[1, 2], eps=[0, 0.25, 0.5])
    >>> solution.coef.reshape(2, 3, 1, 2).shape, solution.separable
    ((2, 3, 1, 2), [True, True, True, True, True, True])
    """
    one = problem.at_radii(eps)
    return steepest_descent(
        one.select(np.tile(np.arange(one.n_problems), len(p))),
        loss,
        [LpNorm(e) for e in p for _ in range(one.n_problems)],
        **options,
    )


def paper_step(rows: Rows, threat: Any, radius: Array) -> Array:
    r"""The step 1 / B^2 of each radius (k,), B = max |x_ij| + eps r.

    r is the largest entry of a perturbation of the threat: 1 for a ball, its largest scale where
    features have scales.
    """
    xp = namespace(radius)
    one = xp.ones((1, rows.shape[1]), dtype=radius.dtype, device=radius.device)
    bound = largest_entry(rows) + radius * reach(threat, one)
    return 1 / xp.where(bound > 0, bound, xp.ones_like(bound)) ** 2


def _require_steps(problem: RobustProblem, norms: Sequence[Norm]) -> None:
    """Refuse a threat that lacks the methods for a step in one of the norms."""
    for norm in norms:
        proximal = takes_proximal_steps(problem.threat, norm)
        needed = ProximalThreat if proximal else KinkedThreat
        require(problem.threat, needed, f"steepest_descent in {norm!r}")


@dataclass(frozen=True)
class _SteepestDescent:
    """Steps along the steepest direction in the norm, stopped at the kinks of the penalty."""

    geometry: Geometry

    def coef(self, state: State) -> Array:
        return state[0]

    def propose(
        self,
        problem: RobustProblem,
        state: State,
        coef: Array,
        now: Evaluation,
        weighted_sum: Array,
        step: Array,
    ) -> tuple[State, Array]:
        xp = namespace(coef)
        total_weight = xp.sum(now.weights, axis=-1)
        parts = [
            _propose(
                problem.select(rows),
                norm,
                coef[rows],
                weighted_sum[rows],
                total_weight[rows],
                step[rows],
            )
            for norm, rows in self.geometry.groups
        ]
        if len(parts) == 1:
            moved, subgradient = parts[0]
        else:
            moved, subgradient = (xp.concat(part, axis=0) for part in zip(*parts, strict=True))
        return (moved,), subgradient

    def select(self, rows: np.ndarray) -> Self:
        return type(self)(self.geometry.select(rows))

    def subgradient_norm(self, subgradient: Array) -> Array:
        return self.geometry.subgradient_norm(subgradient)


def _propose(
    problem: RobustProblem,
    norm: Norm,
    coef: Array,
    weighted_sum: Array,
    total_weight: Array,
    step: Array,
) -> tuple[Array, Array]:
    """The coefficients after a step, and the subgradient."""
    threat, penalty_weight = problem.threat, problem.radius * total_weight
    if takes_proximal_steps(threat, norm):
        # w <- v - P_{eta eps U}(v) with v = w + eta Z^T a, the proximal point of the penalty
        ahead = coef + step[:, None] * weighted_sum
        moved = residual(threat, ahead, step * penalty_weight, norm)
        return moved, (coef - moved) / step[:, None]
    # w <- w - eta |v|_* u with v in -Z^T a + eps d sigma(w)
    subgradient, direction = steepest_subgradient(threat, coef, -weighted_sum, penalty_weight, norm)
    length = step * norm.dual.value(subgradient)
    return threat.stop_at_kinks(coef, coef - length[:, None] * direction), subgradient
