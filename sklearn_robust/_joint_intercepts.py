r"""The intercepts of several classes that minimise their risk, at fixed scores and penalties."""

from __future__ import annotations

import math

import numpy as np

from sklearn_robust._array_api import Array, like, namespace, to_numpy
from sklearn_robust._joint_rows import LabelledRows, soft_minimum
from sklearn_robust.balancing import balancing_potentials
from sklearn_robust.losses import MarginLoss, is_exponential

_MAX_STEPS = 100  # Newton steps at most
_FIRST_REACH = 4.0  # size to which the first step of the intercepts is held, about; it doubles
# machine epsilons added to a Hessian of unit diagonal: classes far below the risk do not move
_RIDGE = 16


def least_risk_intercept(
    rows: LabelledRows,
    log_weight: Array,
    loss: MarginLoss,
    scores: Array,
    penalties: Array,
    near: Array | None = None,
) -> Array:
    r"""The intercepts (K,) of sum 0 that minimise the risk of scores (K, n) and the penalties of
    pairs (K, K), or of samples (K, n).

    The exponential risk is :math:`\sum_{l \ne k} C_{lk} e^{b_k - b_l}` with :math:`C_{lk}` the
    risk of class l against k: matrix balancing gives b. For another loss Newton's method starts
    from there or from 0, whichever has the lower risk, or from `near`. It ends where the
    classes balance, :math:`\sum_{i: y_i = l, k} a_{ik} = \sum_{i: y_i \ne l} a_{il}`.
    """
    xp = namespace(scores)
    starts = [xp.zeros_like(scores[:, 0]) if near is None else near - near.mean()]
    if near is None or is_exponential(loss):
        log_risks = _pair_log_risks(rows, log_weight, scores, penalties)
        starts.append(like(scores, -balancing_potentials(log_risks)))
        if is_exponential(loss):
            return starts[-1]
    models = [_risk_model(rows, log_weight, loss, scores, penalties, b) for b in starts]
    least = int(np.argmin([float(model[0]) for model in models]))
    b, (log_risk, gradient, hessian) = starts[least], models[least]
    reach, tiny = _FIRST_REACH, float(xp.finfo(b.dtype).eps)
    for _ in range(_MAX_STEPS):
        step = like(b, _newton_step(to_numpy(gradient), to_numpy(hessian), reach))
        change = float(xp.max(xp.abs(step)))
        new = _risk_model(rows, log_weight, loss, scores, penalties, b + step)
        lower = float(new[0]) <= float(log_risk) + 4 * tiny * max(1.0, abs(float(log_risk)))
        if lower:
            b, (log_risk, gradient, hessian) = b + step, new
        # Newton's method squares the error
        if change <= tiny**0.5 + 4 * tiny * float(xp.max(xp.abs(b))):
            break
        reach = 2 * max(reach, change) if lower else change / 4
    return b - b.mean()


def _risk_model(
    rows: LabelledRows,
    log_weight: Array,
    loss: MarginLoss,
    scores: Array,
    penalties: Array,
    b: Array,
) -> tuple[Array, Array, Array]:
    r"""The log-risk at intercepts b, and its gradient (K,) and Hessian (K, K) over the risk.

    With shares :math:`\pi_i` of the rivals, weights :math:`a_i` of the samples, curvatures
    :math:`c_i` of the loss and :math:`r_i = e_{y_i} - \pi_i` they are :math:`-\sum_i a_i r_i`
    and :math:`\sum_i c_i r_i r_i^T + a_i (\operatorname{diag} \pi_i - \pi_i \pi_i^T)`.
    """
    xp = namespace(scores)
    soft_margins = xp.empty_like(log_weight)
    for at, places in rows.blocks():
        losses = rows.losses(scores[:, at], penalties, b, at, places)
        soft_margins[at] = soft_minimum(losses)[0]
    log_risk, weights = loss.log_risk_and_weights(soft_margins, log_weight)
    curvatures = loss.curvature(soft_margins, weights)
    gradient, hessian = xp.zeros_like(b), xp.zeros((len(b), len(b)), dtype=b.dtype, device=b.device)
    for at, places in rows.blocks():
        shares = soft_minimum(rows.losses(scores[:, at], penalties, b, at, places))[1]
        weighted = weights[at] * shares
        hessian -= weighted @ shares.T
        of_rival = xp.sum(weighted, axis=1)
        hessian += of_rival * xp.eye(len(b), dtype=b.dtype, device=b.device)
        shares = -shares
        shares[rows.y[at], places] = 1.0
        gradient -= shares @ weights[at]
        hessian += (curvatures[at] * shares) @ shares.T
    return log_risk, gradient, hessian


def _pair_log_risks(
    rows: LabelledRows, log_weight: Array, scores: Array, penalties: Array
) -> np.ndarray:
    r""":math:`\log C_{lk}`, :math:`C_{lk} = \sum_{i: y_i = l} s_i e^{-m_{ik}}` at b = 0, of
    shape (K, K); -inf on the diagonal.
    """
    xp, K = namespace(scores), rows.n_classes
    zero = xp.zeros_like(scores[:, 0])
    tops = np.full((K, K), -math.inf)
    sums = np.zeros((K, K))
    for at, places in rows.blocks():
        logs = rows.losses(scores[:, at], penalties, zero, at, places) + log_weight[at]
        order, classes, starts = rows.by_class(at)
        block = to_numpy(logs)[:, order]
        top = np.maximum(np.maximum.reduceat(block, starts, axis=1).T, tops[classes])
        unit = np.where(top > -math.inf, top, 0.0)
        block = np.exp(block - np.repeat(unit, np.diff(starts, append=len(order)), axis=0).T)
        old = sums[classes] * np.exp(tops[classes] - unit)
        sums[classes] = old + np.add.reduceat(block, starts, axis=1).T
        tops[classes] = top
    known = sums > 0
    return np.where(known, np.log(np.where(known, sums, 1.0)) + np.where(known, tops, 0), -np.inf)


def _newton_step(gradient: np.ndarray, hessian: np.ndarray, reach: float) -> np.ndarray:
    """The Newton step of sum 0; where the slope of a class would lead farther than `reach` its
    curvature is raised. The null vector 1 is made regular.
    """
    gradient, hessian = gradient.astype(np.float64), hessian.astype(np.float64)
    limits = np.finfo(np.float64)
    diagonal = np.diag(hessian)
    raised = np.maximum(np.abs(gradient) / reach - diagonal, 0)
    size = np.sqrt(np.maximum(diagonal + raised, limits.tiny))
    unit = size / np.linalg.norm(size)
    # in units of the diagonal
    matrix = hessian / np.outer(size, size) + np.outer(unit, unit)
    matrix += np.diag(raised / size**2 + _RIDGE * limits.eps)
    step: np.ndarray = -np.linalg.solve(matrix, gradient / size) / size
    return step - step.mean()
