r"""Active-set refinement: Newton's method on the optimality conditions, exact up to rounding.

It starts from a solver's answer. At the solution of the max-margin form the rows that carry weight
have one margin :math:`\gamma`, and w lies on a face of the norms: a 1-norm holds coordinates at
zero, a maximum norm ties coordinates in absolute value. On that face, :math:`w = B\theta`, both
norms are smooth, and for the active rows the optimality conditions are equations,

.. math::

    B^T \big( \gamma \nabla \tfrac12 \|w\|_p^2 + \epsilon \nabla \|w\|_{q^*} - Z^T a \big) = 0,
    \quad y^T a = 0, \quad z_i \cdot w + y_i b - \epsilon \|w\|_{q^*} = \gamma.

One linear system then serves linear, quadratic and cone programs alike.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import LinAlgError, LinAlgWarning, solve

from sklearn_robust._conic_programs import Places
from sklearn_robust.certificates import Certified, Point
from sklearn_robust.norms import LpNorm
from sklearn_robust.separators._max_margin_form import MaxMarginForm, Vector

EXACT = 1e-11  # certified relative gap below which a step gains nothing

# Newton steps
_MAX_STEPS = 12
_MAX_MISSED_STEPS = 3  # consecutive steps without a smaller gap, after which refinement ends

# The dense linear system
_MAX_UNKNOWNS = 6000  # larger systems are not solved
_CHEAP_UNKNOWNS = 400  # unknowns up to which a step costs next to nothing
# added to pivots whose largest is about 1: the system then has a solution where rows repeat or the
# face does not determine w; later steps correct the error
_SADDLE_RIDGE = 1e-11
_EQUILIBRATIONS = 4  # each halves the exponents by which the units of features differ
# entry of a diagonal block, relative to the largest, from which the block is eliminated
_LEAST_CURVATURE = 1e-6
# entries of w, relative to the largest, that are below it count as this large in a norm's curvature
_LEAST_ENTRY = 1e-12


def refined(program: MaxMarginForm, point: Point, tol: float) -> tuple[Certified, bool]:
    """The best of a point and of Newton steps from it, where it has a margin.

    The steps end at a gap of tol, or where they no longer reduce it.

    Where the system is small one step is made in any case. The gap is quadratic in the error of the
    coefficients, which are thus less exact than the gap, and the step makes zeros exact.

    Parameters
    ----------
    program : MaxMarginForm
    point : Point
        Coefficients and weights of any scale; a Certified one is certified on the program.
    tol : float

    Returns
    -------
    Certified
        Coefficients and weights may come from different steps: each is the best of all steps.
    bool
        Whether a step improved the margin or the bound.
    """
    first = best = point = point if isinstance(point, Certified) else program.certify(point)
    misses = 0
    for step in range(_MAX_STEPS):
        reached = best.gap <= tol
        ended = best.margin <= 0 or best.gap <= EXACT or (reached and step > 0)
        if ended or misses == _MAX_MISSED_STEPS:
            break
        moved = newton_step(program, point, _CHEAP_UNKNOWNS if reached else _MAX_UNKNOWNS)
        if moved is None:
            break
        point, last = program.certify(moved), best
        best = last.merged(point)
        misses = 0 if best.gap < last.gap else misses + 1
    return best, best.margin > first.margin or best.bound < first.bound


def newton_step(
    program: MaxMarginForm, point: Point, max_unknowns: int = _MAX_UNKNOWNS
) -> Point | None:
    """One Newton step on the face next to a point.

    Parameters
    ----------
    program : MaxMarginForm
    point : Point
        Coefficients of any scale; feasible weights (>= 0, of sum 1, and of equal class sums with
        an intercept).
    max_unknowns : int

    Returns
    -------
    Point or None
        None where features have scales, where the point has no margin, and so no face to step on,
        or where the system is singular or too large. The step may increase the gap: its certificate
        decides.
    """
    norm, penalty_norm = program.norm, program.penalty_norm
    if not isinstance(penalty_norm, LpNorm):
        return None  # faces are known for norms without scales only
    a = point.weights
    weighted_sum = program.rows.T @ a
    # Z^T a less the nearest point of the threat's ball
    left = penalty_norm.dual.residual(weighted_sum, program.eps, norm.dual)
    distance = norm.dual.value(left)
    if distance == 0 or not point.coef.any():
        return None

    # The weights imply subgradients of both norms, which choose the face, and w itself where the
    # norm p is smooth
    w = norm.steepest_direction(left) if 1 < program.p < math.inf else point.coef
    faces = [(program.p, left / distance)]
    if program.eps > 0:
        faces.append((program.dual_q, (weighted_sum - left) / program.eps))
    face = _Face.next_to(w, faces)
    w = face.expand(face.mean(w))
    if not w.any():
        return None
    w = w / norm.value(w)

    margins = program.levelled(program.rows @ w) - program.eps * penalty_norm.value(w)
    gamma = a @ margins
    slack = margins - gamma
    active = np.flatnonzero(a * max(gamma, slack.max()) > slack * a.max())
    curved = 1 < program.p < math.inf or (program.eps > 0 and 1 < program.dual_q < math.inf)
    unknowns = len(active) + (0 if curved else face.dimension)
    if not len(active) or unknowns > max_unknowns:
        return None
    labels = None if program.labels is None else program.labels[active]
    on_face = replace(program, rows=program.rows[active], labels=labels)
    step = _solve_conditions(on_face, w, a[active], face, gamma, slack[active], max_unknowns)
    if step is None:
        return None
    weights = np.zeros_like(a)
    weights[active] = step.weights
    return Point(step.coef, weights)


def _solve_conditions(
    program: MaxMarginForm,
    w: Vector,
    a: Vector,
    face: _Face,
    gamma: float,
    slack: Vector,
    max_unknowns: int,
) -> Point | None:
    """Newton's equations at (w, a) for a program of active rows only, on a face."""
    # gamma ||w||_p^2 / 2 + eps ||w||_q*: its gradient, and its curvature as a diagonal plus a rank
    # for each norm
    u, diagonal, shrink = _derivatives(w, program.norm)
    gradient, diagonal = gamma * u, gamma * diagonal
    ranks = [(u, gamma * (1 - shrink))]
    slope = np.zeros_like(w)
    if program.eps > 0:
        v, curvature, shrink = _derivatives(w, LpNorm(program.dual_q))
        slope, weight = program.eps * v, program.eps * a.sum()
        gradient, diagonal = gradient + a.sum() * slope, diagonal + weight * curvature
        ranks.append((v, -weight * shrink))
    ranks = [(direction, size) for direction, size in ranks if size != 0]

    # the unknowns beside theta, whose block of the system is diagonal
    places = Places()
    intercept = None if program.labels is None else places.take_one()
    rank_places = [places.take_one() for _ in ranks]
    weights = places.take(len(a))
    system, goal = np.zeros((places.size, places.size)), np.zeros(places.size)
    coupling = np.zeros((places.size, face.dimension))
    for k, (direction, size) in zip(rank_places, ranks, strict=True):
        coupling[k] = face.gather(direction)
        system[k, k] = -1 / size
    coupling[weights] = face.gather(program.rows) - face.gather(slope)
    goal[weights] = slack
    if program.labels is not None:
        system[weights, intercept] = system[intercept, weights] = program.labels
        goal[intercept] = -program.labels @ a
    step = _solve_blocks(
        face.gather(diagonal, squared=True),
        coupling,
        system,
        face.gather(gradient - program.rows.T @ a),
        goal,
        n_primal=int(intercept is not None),
        max_unknowns=max_unknowns,
    )
    if step is None:
        return None
    theta, others = step
    return Point(w - face.expand(theta), a + others[weights])


def _solve_blocks(
    diagonal: Vector,
    coupling: Vector,
    system: Vector,
    first: Vector,
    goal: Vector,
    n_primal: int,
    max_unknowns: int,
) -> tuple[Vector, Vector] | None:
    """The solution of D theta + C^T x = first, C theta + S x = goal, D the diagonal; None where the
    system is singular or too large.

    D is eliminated where all of it is positive; it is 0 on the faces of linear programs.
    """
    m = len(diagonal)
    if diagonal.min(initial=math.inf) > _LEAST_CURVATURE * diagonal.max(initial=0):
        scaled = coupling / diagonal
        x = _solve_saddle_point(system - scaled @ coupling.T, goal - scaled @ first, n_primal)
        return None if x is None else ((first - x @ coupling) / diagonal, x)
    if m + len(goal) > max_unknowns:
        return None
    whole = np.block([[np.diag(diagonal), coupling.T], [coupling, system]])
    x = _solve_saddle_point(whole, np.append(first, goal), m + n_primal)
    return None if x is None else (x[:m], x[m:])


def _solve_saddle_point(system: Vector, goal: Vector, n_primal: int) -> Vector | None:
    """The solution of a symmetric saddle-point system; None where it is singular.

    The system is convex in its first n_primal unknowns and concave in the others.

    Features may have units of their own: a small system is divided by units that make the largest
    entry of each row 1.
    """
    units = np.ones(len(goal))
    sizes = np.abs(system)
    for _ in range(_EQUILIBRATIONS if len(goal) <= _CHEAP_UNKNOWNS else 0):
        largest = units * (sizes * units).max(axis=1)
        units /= np.sqrt(np.where(largest > 0, largest, 1.0))
    system *= units[:, None]
    system *= units
    pivots = np.einsum("ii->i", system)
    pivots[:n_primal] += _SADDLE_RIDGE
    pivots[n_primal:] -= _SADDLE_RIDGE
    try:
        with warnings.catch_warnings():
            # an inexact step is judged by its certificate
            warnings.simplefilter("ignore", LinAlgWarning)
            step = units * solve(
                system, units * goal, assume_a="general", overwrite_a=True, check_finite=False
            )
    except LinAlgError:  # exactly singular
        return None
    return step if np.isfinite(step).all() else None


@dataclass(frozen=True)
class _Face:
    """Vectors that share zero coordinates, and tied coordinates with their signs.

    Each free coordinate is an unknown, and the tied ones are one unknown together.
    """

    free: NDArray[np.intp]
    tied: NDArray[np.intp]
    signs: Vector  # the signs of the tied coordinates
    n_features: int

    @classmethod
    def next_to(cls, w: Vector, faces: list[tuple[float, Vector]]) -> _Face:
        """The face for exponents and subgradients at w.

        A coordinate is at zero, or tied, if its subgradient is further from the boundary of its
        range than the coordinate is from the face.
        """
        size = np.abs(w) / np.abs(w).max()
        zero, tied = np.zeros(w.shape, dtype=bool), np.zeros(w.shape, dtype=bool)
        for exponent, subgradient in faces:
            strength = np.abs(subgradient)
            if exponent == 1:
                zero |= size <= 1 - strength
            elif exponent == math.inf:
                tied |= strength > (1 - size) * strength.max()
        tied &= ~zero & (w != 0)
        return cls(np.flatnonzero(~zero & ~tied), np.flatnonzero(tied), np.sign(w[tied]), len(w))

    @property
    def dimension(self) -> int:
        return len(self.free) + bool(len(self.tied))

    def gather(self, x: Any, *, squared: bool = False) -> Vector:
        """B^T x along the last axis, from (..., d) to (..., dimension).

        With `squared` it is the diagonal of B^T diag(x) B.
        """
        free = x[..., self.free]
        free = free.toarray() if sparse.issparse(free) else free
        if not len(self.tied):
            return free
        tied = x[..., self.tied] @ (self.signs**2 if squared else self.signs)
        return np.concatenate([free, np.asarray(tied)[..., None]], axis=-1)

    def expand(self, theta: Vector) -> Vector:
        """B theta."""
        w = np.zeros(self.n_features)
        w[self.free] = theta[: len(self.free)]
        if len(self.tied):
            w[self.tied] = theta[-1] * self.signs
        return w

    def mean(self, w: Vector) -> Vector:
        """The coordinates of w on the face, the tied ones averaged."""
        theta = self.gather(w)
        if len(self.tied):
            theta[-1] /= len(self.tied)
        return theta


def _derivatives(w: Vector, norm: LpNorm) -> tuple[Vector, Vector, float]:
    """Gradient u of a norm on the face of w, and its curvature diag(c) - k u u^T as c and k."""
    u = norm.dual.steepest_direction(w)
    if norm.p in (1, math.inf):
        return u, np.zeros_like(w), 0.0
    size = norm.value(w)
    ratio = np.abs(w) / size
    k = (norm.p - 1) / size
    return u, k * np.maximum(ratio, _LEAST_ENTRY * ratio.max()) ** (norm.p - 2), k
