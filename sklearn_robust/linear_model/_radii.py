"""Radii of l_q balls that are worth training with, read off the data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sklearn_robust._parameters import check_exponent, check_number
from sklearn_robust.joint import JointProblem
from sklearn_robust.linear_model._robust_linear import RobustLinearClassifier
from sklearn_robust.linear_model.constant_radii import constant_radii
from sklearn_robust.linear_model.lifecycle import begin_fit
from sklearn_robust.linear_model.reading import read_problem
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators import max_margin
from sklearn_robust.separators.joint import largest_joint_distance
from sklearn_robust.threats import require_ball

_LEAST_RADIUS = 0.02  # smallest radius of interest, relative to eps_max
# The decision whether the data are separable at the smallest radius
_DECISION_RADII = 4  # radii from eps_max down to it, each the start of the next smaller one
_DECISION_TOL = 1e-3  # certified relative gap of the minimisers of the risk at these radii


def training_radii(
    X: Any,
    y: Any,
    *,
    q: float = math.inf,
    n_eps: int = 8,
    fit_intercept: bool = True,
    sample_weight: Any = None,
    scale: Any = None,
) -> np.ndarray:
    r"""A grid of training radii: that of ``eps="auto"`` in `RobustLinearClassifierCV`.

    Two radii set the scale for given data: :math:`\epsilon_{\max}`, from which on the minimiser of
    the robust risk is w = 0, and :math:`\epsilon^* \le \epsilon_{\max}` (`max_margin`), below which
    the data are robustly separable. For two classes

    .. math:: \epsilon_{\max} = \|g\|_q, \qquad g = \sum_i a_i y_i x_i,

    with :math:`a_i` the share of sample i in its class over 2 (g is half the difference of the
    class means; without an intercept the mean of :math:`y_i x_i`).

    Parameters
    ----------
    X : array-like or sparse array of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
    q : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf].
    n_eps : int, default=8
    fit_intercept : bool, default=True
    sample_weight : array-like of shape (n_samples,), optional
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
        How far the adversary can move each feature, as in `RobustLinearClassifier`.

    Returns
    -------
    ndarray of shape (n_eps,)
        Ascending. If the data are separable at eps_max / 50, the first half lies evenly between 0
        and eps*, and the rest evenly on a logarithmic scale between eps* and eps_max; if eps* is
        not below eps_max, all lie evenly between 0 and eps_max. Otherwise all lie evenly on a
        logarithmic scale from eps_max / 50 up to, and without, eps_max. One radius, 0, if the class
        means coincide: no other one makes sense then.

    Notes
    -----
    Close to eps* fits are slow and hardly depend on eps: where eps* is below eps_max / 50, no
    radius is put there.

    With scales s the norm is that of g / s. Features that the adversary cannot touch are left out
    of it: eps_max is then a scale for the others, and eps* may lie beyond it.

    The robust risk is convex, and at w = 0, with the best intercept, its weights are the
    :math:`a_i`, up to a factor: zero is in its subdifferential there if and only if :math:`\|g\|_q
    \le \epsilon`. With weights :math:`a_{ik}` of sample i against the rival class k, several
    classes have :math:`G = \sum_{ik} a_{ik} (e_{y_i} - e_k) x_i^\top` in place of g, and zero is in
    the subdifferential if and only if :math:`G = \sum_{l<k} (e_l - e_k) \delta_{lk}^\top` with
    :math:`\|\delta_{lk}\|_q \le \epsilon A_{lk}`, :math:`A_{lk}` the weight of all samples of
    either class against the other. The weights depend on the loss: eps_max is that of the
    exponential one.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_robust import training_radii
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> training_radii(StandardScaler().fit_transform(X), y, n_eps=4).round(3)
    array([0.016, 0.044, 0.116, 0.309])
    """
    model = RobustLinearClassifier(
        q_pert=check_exponent(q, "q"), fit_intercept=fit_intercept, scale=scale
    )
    return choose_radii(read_problem(model, X, y, sample_weight), n_eps)


def choose_radii(problem: RobustProblem | JointProblem, n_eps: int) -> np.ndarray:
    """The training radii for the data of a problem, whatever its own radius."""
    check_number(n_eps, "n_eps", low=1, integer=True)
    problem = problem.in_double_arithmetic()
    require_ball(problem.threat, "training_radii", "use an LpBall")
    (largest,) = constant_radii(problem).tolist()
    if largest == 0:
        return np.zeros(1)
    smallest = _LEAST_RADIUS * largest
    if not _is_separable(problem, smallest, largest):
        return np.geomspace(smallest, largest, n_eps + 1)[:-1]
    limit = _largest_distance(problem)
    if limit >= largest:
        return largest * np.arange(1, n_eps + 1) / (n_eps + 1)
    inside = n_eps // 2
    return np.concatenate(
        [
            limit * np.arange(1, inside + 1) / (inside + 1),
            np.geomspace(limit, largest, n_eps - inside + 2)[1:-1],
        ]
    )


def _is_separable(problem: RobustProblem | JointProblem, radius: float, largest: float) -> bool:
    """Whether the data are proven to be robustly separable at this radius, below the largest."""
    tried: RobustProblem | JointProblem
    if isinstance(problem, JointProblem):
        tried = problem.at_radius(radius)
    else:
        # each minimiser of the risk is near that at the next radius, and a good start for it
        steps = np.geomspace(radius, largest, _DECISION_RADII + 1)[:-1]
        tried = problem.at_radii(steps.tolist())
    fit = begin_fit(None, tried, None, loss="exponential", tol=_DECISION_TOL)
    return fit.decide_separability(LpNorm(2)).separable[0] is True


def _largest_distance(problem: RobustProblem | JointProblem) -> float:
    """eps*, the radius below which the data are robustly separable."""
    if isinstance(problem, JointProblem):
        return float(largest_joint_distance(problem).margin)
    threat = problem.threat
    options = {"q": threat.q, "fit_intercept": problem.fit_intercept, "scale": threat.scale}
    return max_margin(problem.X, problem.y[0], **options).margin
