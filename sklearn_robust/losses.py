r"""Margin losses, in the log domain: nothing underflows however large the margins grow.

A loss l turns margins into the risk :math:`L(m) = \sum_i s_i\, l(m_i)` (s the sample weights, of
sum 1) and into the weights :math:`a_i = -\partial \log L / \partial m_i \ge 0` that its gradient
puts on the samples. All arrays have shape (..., n); leading axes are independent problems, and a
log weight of -inf leaves a sample out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeGuard

import numpy as np
import scipy
from scipy.special import expit, log_expit, logsumexp

from sklearn_robust._array_api import Array, at_least_tiny, namespace
from sklearn_robust._documentation import see

# doublings of a bracket at most, which then holds margins up to a thousand
_DOUBLINGS = 10
_PART = 2**15  # samples of a part of a sum, a quarter of a megabyte in float64
_MAX_ROOT_STEPS = 100  # steps at most to the root of a scalar equation, which takes a few
_FEW_LOGARITHMS = 1000  # logarithms that take less time than to do with half of them

# The best scale of weights that bound the risk
_BOUND_ROUNDING = 1e-13  # share of the bound that a better scale must gain
_CLOSE_TO_CAP = 0.1  # step, as a share of the distance to the largest scale, that tells no gain


class MarginLoss(Protocol):
    r"""A convex decreasing loss of the margin that tends to zero, and has a slope at zero.

    Every estimator takes one in place of a name. The path of a loss whose tail is exponential tends
    to the robust separator; that of a loss that reaches zero ends there, and the separator is
    computed directly.

    A loss that has probabilities says which: it has either the number `log_odds_slope`, t where
    :math:`\log \tfrac{P(y = 1 | f)}{P(y = -1 | f)} = t f` for the score f that minimises the risk
    of a sample, or a method ``log_odds(scores)`` that returns this logarithm, of any form. It is
    :math:`\log \ell'(-f) / \ell'(f)`, and `check_loss` holds it against that. A loss without both
    has no probabilities, nor have estimators with it.
    """

    name: str

    def log_risk_and_weights(self, margins: Array, log_weight: Array) -> tuple[Array, Array]:
        """log L of shape (...) and the weights a of shape (..., n); where L is zero, -inf and the
        sample weights s.
        """
        ...

    def intercept(
        self, margins: Array, y: Array, log_weight: Array, near: Array | None = None
    ) -> Array:
        """A b of shape (...) that minimises the risk of the margins m + y b; then sum_i a_i y_i =
        0, unless L is zero.
        """
        ...

    def curvature(self, margins: Array, weights: Array) -> Array:
        """Second derivatives l''(m_i) s_i / L, of shape (..., n): the Hessian of L over L, in the
        margins.
        """
        ...

    def log_risk_bound(self, weights: Array, log_weight: Array, near: Array | None = None) -> Array:
        """Fenchel's lower bound on log L over all predictors, from dual-feasible weights of sum 1.

        near is a guess of the log of their best scale: for weights in proportion to those of a
        risk, its log plus that of their sum.
        """
        ...


class SummableLoss(MarginLoss, Protocol):
    """A loss whose lower bound on the risk is one sum over the samples, in any order."""

    def dual_sum(self, weights: np.ndarray, log_weight: np.ndarray, log_scale: float) -> float:
        """The summands of some samples, (m,): of weights of sum 1 over all samples, at a scale."""
        ...

    def dual_bound(self, total: float, log_scale: float) -> float:
        """The lower bound on log L over all predictors that the sum over all samples gives."""
        ...


class Exponential:
    r"""The exponential loss, l(m) = exp(-m).

    log L(m) = logsumexp(log s - m) and the weights are its softmax, of sum 1.

    Examples
    --------
    >>> import numpy as np
    >>> log_risk, weights = Exponential().log_risk_and_weights(
    ...     np.array([2000.0, 2000.0]), np.log([0.5, 0.5]))
    >>> float(log_risk), weights
    (-2000.0, array([0.5, 0.5]))
    """

    name = "exponential"
    log_odds_slope = 2.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def log_risk_and_weights(self, margins: Array, log_weight: Array) -> tuple[Array, Array]:
        """log L of shape (...) and the weights a of shape (..., n)."""
        xp = namespace(margins)
        losses = log_weight - margins
        largest = xp.max(losses, axis=-1, keepdims=True)
        losses -= largest
        weights = _exp(xp, losses)
        total = xp.sum(weights, axis=-1, keepdims=True)
        weights /= total
        return (largest + xp.log(total))[..., 0], weights

    def intercept(
        self, margins: Array, y: Array, log_weight: Array, near: Array | None = None
    ) -> Array:
        """The exact minimiser b = (log S+ - log S-)/2, S± the sums of s exp(-m) over each class."""
        xp = namespace(margins)
        losses = log_weight - margins
        return 0.5 * (_class_logsumexp(xp, losses, y > 0) - _class_logsumexp(xp, losses, y < 0))

    def curvature(self, margins: Array, weights: Array) -> Array:
        """Second derivatives l''(m_i) s_i / L = a_i."""
        return weights

    def log_risk_bound(
        self,
        weights: Array,
        log_weight: Array,
        near: Array | None = None,
        entropy: Array | float = 0.0,
    ) -> Array:
        """-KL(a || s), plus the entropy of rivals where there are several: the log-risk of no
        predictor is lower.
        """
        xp = namespace(weights)
        divergence = xp.zeros_like(weights[..., 0])
        for part, logs in _parts(weights, log_weight):
            used = part > 0
            ratio = xp.log(xp.where(used, part, xp.ones_like(part)))
            ratio -= xp.where(used, logs, xp.zeros_like(part))
            divergence = divergence + xp.sum(part * ratio, axis=-1)
        return entropy - divergence

    def dual_sum(self, weights: np.ndarray, log_weight: np.ndarray, log_scale: float) -> float:
        """-KL(a || s) over some of the samples, (m,); no scale enters."""
        return float(self.log_risk_bound(weights, log_weight))

    def dual_bound(self, total: float, log_scale: float) -> float:
        """The lower bound on the log-risk that the sum over all samples gives."""
        return total


class Logistic:
    r"""The logistic loss, l(m) = log(1 + exp(-m)); for large margins it is the exponential loss.

    Examples
    --------
    >>> import numpy as np
    >>> log_risk, weights = Logistic().log_risk_and_weights(
    ...     np.array([0.0, 0.0]), np.log([0.5, 0.5]))
    >>> round(float(np.exp(log_risk)), 4)
    0.6931
    """

    name = "logistic"
    log_odds_slope = 1.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def log_risk_and_weights(self, margins: Array, log_weight: Array) -> tuple[Array, Array]:
        """log L of shape (...) and the weights a = s sigmoid(-m) / L of shape (..., n)."""
        xp = namespace(margins)
        if (smallest := _moderate(margins, log_weight)) is not None:
            return _moderate_logistic(margins, log_weight, smallest)[:2]
        losses = log_weight + _log_softplus(xp, margins)
        largest = xp.max(losses, axis=-1, keepdims=True)
        log_risk = largest + xp.log(xp.sum(xp.exp(losses - largest), axis=-1, keepdims=True))
        return log_risk[..., 0], xp.exp(log_weight + _log_sigmoid(xp, -margins) - log_risk)

    def intercept(
        self, margins: Array, y: Array, log_weight: Array, near: Array | None = None
    ) -> Array:
        """The minimiser b, by Newton on log A+(b) - log A-(b) = 0, A± the weight that the loss puts
        on each class.
        """
        xp = namespace(margins)
        b = Exponential().intercept(margins, y, log_weight) if near is None else near
        if len(margins) == 1 and _moderate(margins, log_weight) is not None:
            found = _moderate_intercept(margins[0], y[0], log_weight[0], float(b[0]))
            if found is not None:
                return np.array([found], dtype=margins.dtype)
        low, high = xp.full_like(b, -math.inf), xp.full_like(b, math.inf)
        members = y > 0, y < 0
        reach = 4.0  # the longest step while the bracket is open; it doubles
        for _ in range(_MAX_ROOT_STEPS):
            log_slope = _log_sigmoid(xp, -(margins + y * b[..., None]))
            weight = log_weight + log_slope
            # each class relative to its largest weight: they may lie any orders apart
            top = [_class_max(xp, weight, of_class) for of_class in members]
            weight = xp.exp(weight - xp.where(members[0], top[0], top[1]))
            up, down = (at_least_tiny(_class_sum(xp, weight, of_class)) for of_class in members)
            error = xp.log(up) - xp.log(down) + (top[0] - top[1])[..., 0]  # decreasing in b
            weight = -xp.expm1(log_slope) * weight  # sigmoid(m) = -d log a / d m
            rises = [_class_sum(xp, weight, of_class) for of_class in members]
            rate = rises[0] / up + rises[1] / down
            low, high = xp.where(error > 0, b, low), xp.where(error < 0, b, high)
            bracketed = xp.isfinite(low) & xp.isfinite(high)
            middle = 0.5 * (xp.where(bracketed, low, b) + xp.where(bracketed, high, b))
            moved = b + xp.clip(error / xp.maximum(rate, xp.full_like(rate, 1e-20)), -reach, reach)
            reach *= 2
            moved = xp.where((moved >= low) & (moved <= high) | ~bracketed, moved, middle)
            # the curvature of the error is at most 1/2: after a step s the classes differ by a
            # share of s^2/4 at most
            tiny = xp.finfo(b.dtype).eps
            converged = xp.abs(moved - b) <= tiny**0.5 + 4 * tiny * xp.abs(b)
            b = moved
            if bool(xp.all(converged)):
                break
        return b

    def curvature(self, margins: Array, weights: Array) -> Array:
        """Second derivatives l''(m_i) s_i / L = a_i sigmoid(m_i)."""
        if isinstance(margins, np.ndarray):
            return weights * expit(margins)
        xp = namespace(margins)
        return weights * xp.exp(_log_sigmoid(xp, margins))

    def log_risk_bound(
        self,
        weights: Array,
        log_weight: Array,
        near: Array | None = None,
        entropy: Array | float = 0.0,
    ) -> Array:
        r"""log of max_c sum_i s_i H(c a_i / s_i) over scales c, H(t) = -t log t - (1-t) log(1-t)
        the binary entropy; plus c times the entropy of rivals where there are several.
        """
        xp = namespace(weights)
        used = (log_weight > -math.inf) & (weights > 0)
        nothing = xp.zeros_like(weights[..., :1])
        if bool(xp.all(used)):
            used_weights, log_ratio = weights, xp.log(weights) - log_weight
            cap = -xp.max(log_ratio, axis=-1, keepdims=True)
        else:
            used_weights = xp.where(used, weights, nothing)
            log_ratio = xp.log(xp.where(used, weights, nothing + 1))
            log_ratio = log_ratio - xp.where(used, log_weight, nothing)
            cap = -xp.max(xp.where(used, log_ratio, nothing - math.inf), axis=-1, keepdims=True)

        # concave in c, with t = c a / s: Newton in log c on its derivative sum_i a_i log((1 -
        # t_i)/t_i), inside a bracket; towards the cap in the logarithm of the distance to it, in
        # which the derivative is convex, so that no step goes too far
        high, low = cap, xp.full_like(cap, -math.inf)
        level = high - 0.7
        if near is not None:  # the best c is there for the weights of the least risk
            guess = near[..., None]
            level = xp.where(guess < high, guess, high - 0.01)
        bound = xp.full_like(cap, -math.inf)
        for _ in range(_MAX_ROOT_STEPS):
            total, slope, rate = _entropy_sums(xp, level, used_weights, log_ratio)
            total, slope = total + entropy, slope + entropy
            # every c bounds the risk
            bound = xp.maximum(bound, level + xp.log(at_least_tiny(total)))
            step = slope / rate
            # the best c by half of this more, to second order, if the cap is not close
            gain, close = slope * step, xp.abs(step) > _CLOSE_TO_CAP * (cap - level)
            if not bool(xp.any((gain > _BOUND_ROUNDING * total) | close)):
                break
            low, high = xp.where(slope > 0, level, low), xp.where(slope < 0, level, high)
            ahead = at_least_tiny(cap - level)
            nearer = cap - ahead * xp.exp(-xp.maximum(step, nothing) / ahead)
            moved = xp.where(slope > 0, nearer, level + step)
            at_cap = (slope > 0) & (nearer >= cap)  # the best c is closer to it than numbers are
            moved = xp.where(
                (moved > low) & (moved < high) | at_cap,
                moved,
                xp.where(moved <= low, low, 0.5 * (level + high)),
            )
            moved = xp.where(slope == 0, level, moved)
            if bool(xp.all(moved == level)):
                break
            level = moved
        return bound[..., 0]

    def dual_sum(self, weights: np.ndarray, log_weight: np.ndarray, log_scale: float) -> float:
        """The sum of s_i H(c a_i / s_i) over c, for log c = log_scale and some of the samples, (m,)
        of positive weight; c a_i is taken for s_i where it is larger.
        """
        tiny = np.finfo(np.float64).tiny
        log_ratio = np.log(np.maximum(weights, tiny)) - log_weight
        return float(_entropy_sums(np, np.full(1, log_scale), weights, log_ratio)[0][0])

    def dual_bound(self, total: float, log_scale: float) -> float:
        """The lower bound on the log-risk that the sum over all samples gives."""
        return log_scale + math.log(total) if total > 0 else -math.inf


_MEMBERS = ("name", "log_risk_and_weights", "intercept", "curvature", "log_risk_bound")
LOSSES: dict[str, MarginLoss] = {loss.name: loss for loss in (Exponential(), Logistic())}


def check_loss(
    value: Any, name: str, losses: Mapping[str, MarginLoss] = LOSSES, *, like: Array | None = None
) -> MarginLoss:
    """The loss of this name, or a copy of a loss of one's own: what is done to the object later
    changes no fit before.

    With an array `like` the loss must compute on arrays of its kind.

    Raises
    ------
    ValueError
        If the value is neither, with what an object lacks; or if its log-odds are not those of its
        slopes, or it does not compute on the arrays.
    """
    if isinstance(value, str) and value in losses:
        return losses[value]
    choices = f"{name} must be one of {list(losses)} or a MarginLoss"
    lacking = [member for member in _MEMBERS if not hasattr(value, member)]
    if isinstance(value, type):
        raise ValueError(
            f"{choices}, got the class {value.__name__}. Use an instance, {value.__name__}(...)."
        )
    if lacking == list(_MEMBERS):
        raise ValueError(f"{choices}, got {value!r}.")
    if lacking:
        raise ValueError(
            f"{choices}, but {value!r} lacks {', '.join(lacking)}. Add it: see "
            f"sklearn_robust.losses.MarginLoss."
            f" {see('extending')}"
        )
    if like is not None and not isinstance(like, np.ndarray):
        try:
            value.log_risk_and_weights(0 * like, 0 * like)
        except Exception as error:
            raise ValueError(
                f"{name}={value!r} must compute on torch tensors, for networks and with a device, "
                f"and raises "
                f"{type(error).__name__} on them. Take its functions from "
                f"array_api_compat.array_namespace(margins)."
            ) from error
    if has_probabilities(value):
        score = np.array([0.5])
        claimed, derived = log_odds(value, score).item(), _slope_ratio(value, score).item()
        if not math.isclose(claimed, derived, rel_tol=1e-6):
            raise ValueError(
                f"{name}={value!r} claims log-odds {claimed:.6g} at the score 0.5, where its "
                f"slopes give {derived:.6g}. "
                "Correct its log_odds_slope or log_odds, or set log_odds_slope=None for a loss "
                "without probabilities."
            )
    return copy.deepcopy(value)


def log_risk_and_derivatives(
    loss: MarginLoss, margins: np.ndarray, log_weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log L of shape (...), and the weights and the curvatures of a loss, (..., n), in one pass
    where they have terms in common.
    """
    if is_logistic(loss) and (smallest := _moderate(margins, log_weight)) is not None:
        return _moderate_logistic(margins, log_weight, smallest)
    log_risk, weights = loss.log_risk_and_weights(margins, log_weight)
    return log_risk, weights, loss.curvature(margins, weights)


def is_exponential(loss: MarginLoss) -> bool:
    """Whether formulas of exp(-m) may take the place of the methods of a loss; a subclass may have
    others.
    """
    return type(loss) is Exponential


def is_logistic(loss: MarginLoss) -> bool:
    """Whether formulas of log(1 + exp(-m)) may take the place of the methods of a loss."""
    return type(loss) is Logistic


def takes_entropy(loss: MarginLoss) -> bool:
    """Whether `log_risk_bound` takes the entropy of the rivals, which several classes add."""
    return type(loss) in (Exponential, Logistic)


def is_summable(loss: MarginLoss) -> TypeGuard[SummableLoss]:
    """Whether the loss has the members of `SummableLoss`."""
    return hasattr(loss, "dual_sum") and hasattr(loss, "dual_bound")


def log_odds_slope(loss: MarginLoss) -> float | None:
    """t where the log-odds of a score f are t f; None where they are no multiple of it, or the loss
    has none.
    """
    return getattr(loss, "log_odds_slope", None)


def softmax_slope(loss: MarginLoss) -> float | None:
    """t where the probabilities of several classes with scores f are softmax(t f); None for others
    than the exponential and the logistic loss.
    """
    return log_odds_slope(loss) if type(loss) in (Exponential, Logistic) else None


def has_probabilities(loss: MarginLoss) -> bool:
    """Whether the scores of a loss have log-odds."""
    return log_odds_slope(loss) is not None or hasattr(loss, "log_odds")


def log_odds(loss: MarginLoss, scores: Array) -> Array:
    """The log-odds of the positive class, in the shape of the scores, of a loss that has
    probabilities.
    """
    slope = log_odds_slope(loss)
    return loss.log_odds(scores) if slope is None else slope * scores  # type: ignore[attr-defined]


def class_log_probabilities(loss: MarginLoss, scores: np.ndarray) -> np.ndarray:
    r"""Logarithms of the probabilities of K classes under which scores f minimise the joint risk of
    a sample: (n, K) -> (n, K).

    With :math:`\pi = \operatorname{softmax}(f)` and soft margins :math:`\mu_k =
    \operatorname{logit} \pi_k` they are proportional to :math:`\pi_k (1 - \pi_k) /
    (-\ell'(\mu_k))`: softmax(f) for the logistic and softmax(2 f) for the exponential loss. Where
    the loss has no slope at the soft margin of a class, the class is certain.
    """
    slope = softmax_slope(loss)
    if slope is not None:
        # sizes of scores are no sizes of rounding
        logs = slope * (scores - scores.max(axis=1, keepdims=True))
        normalised: np.ndarray = logs - logsumexp(logs, axis=1, keepdims=True)
        return normalised
    rows, largest = np.arange(len(scores)), scores.argmax(axis=1)
    total = logsumexp(scores, axis=1, keepdims=True)
    log_share = scores - total
    log_rest = np.log1p(-np.exp(np.minimum(log_share, -math.log(2))))
    # the share of a class above one half comes from those of the others
    others = scores.copy()
    others[rows, largest] = -math.inf
    log_rest[rows, largest] = logsumexp(others, axis=1) - total[:, 0]
    margins = (log_share - log_rest)[..., None]
    log_loss, ratio = loss.log_risk_and_weights(margins, np.zeros_like(margins))
    logs = log_share + log_rest - (log_loss + np.log(ratio[..., 0]))
    certain = np.equal(logs, math.inf)
    logs = np.where(np.any(certain, axis=1, keepdims=True), np.where(certain, 0.0, -math.inf), logs)
    normalised = logs - logsumexp(logs, axis=1, keepdims=True)
    return normalised


def conjugate_bound(
    loss: MarginLoss, weights: np.ndarray, log_weight: np.ndarray, entropy: float
) -> float:
    r"""log of :math:`\max_c \sum_i s_i \phi(c a_i / s_i) + c E`, with :math:`\phi(t) = \min_m
    \ell(m) + t m` and E the entropy of the rivals: no predictor of several classes has a lower
    log-risk. For a loss of one's own, from its slopes.

    Parameters
    ----------
    loss : MarginLoss
    weights : ndarray of shape (n,)
        Dual-feasible weights :math:`a_i` of sum 1.
    log_weight : ndarray of shape (n,)
    entropy : float

    Returns
    -------
    float
        -inf where no scale c gives a positive sum.
    """
    used = (weights > 0) & (log_weight > -math.inf)
    weights, share = weights[used], np.exp(log_weight[used])

    # the sum is concave in c, and its derivative sum_i a_i m_i + E
    def derivative(log_c: float) -> float:
        margins = _margins_of_slopes(loss, math.exp(log_c) * weights / share)
        return float(weights @ margins) + entropy

    low = high = 0.0
    for _ in range(_DOUBLINGS):
        if derivative(low) > 0:
            break
        low -= 1.0
    for _ in range(_DOUBLINGS):
        if not derivative(high) > 0:
            break
        high += 1.0
    if not derivative(low) > 0 or derivative(high) > 0:
        return -math.inf
    c = math.exp(scipy.optimize.brentq(derivative, low, high, xtol=1e-7))
    slopes = c * weights / share
    margins = _margins_of_slopes(loss, slopes)
    bound = float(share @ (_loss_and_slope(loss, margins)[0] + slopes * margins)) + c * entropy
    return math.log(bound) if bound > 0 else -math.inf


def _loss_and_slope(loss: MarginLoss, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """l(m) and -l'(m) of each margin."""
    # the ratio is that of slope and loss
    log_loss, ratio = loss.log_risk_and_weights(margins[:, None], np.zeros_like(margins)[:, None])
    value = np.exp(log_loss)
    return value, value * ratio[:, 0]


def _margins_of_slopes(loss: MarginLoss, slopes: np.ndarray) -> np.ndarray:
    """The margins at which the loss falls with these slopes, by bisection; -inf where it nowhere
    does.
    """
    low, high = np.full_like(slopes, -1.0), np.ones_like(slopes)
    for _ in range(_DOUBLINGS):
        flat, steep = (
            _loss_and_slope(loss, low)[1] < slopes,
            _loss_and_slope(loss, high)[1] > slopes,
        )
        if not (flat.any() or steep.any()):
            break
        low, high = np.where(flat, 2 * low, low), np.where(steep, 2 * high, high)
    for _ in range(_MAX_ROOT_STEPS):
        middle = 0.5 * (low + high)
        if np.all((middle == low) | (middle == high)):
            break
        steep = _loss_and_slope(loss, middle)[1] > slopes
        low, high = np.where(steep, middle, low), np.where(steep, high, middle)
    return np.where(flat, -math.inf, 0.5 * (low + high))


def _slope_ratio(loss: MarginLoss, scores: np.ndarray) -> np.ndarray:
    """log of l'(-f) / l'(f), of shape (n,): the log-odds under which the conditional risk P l(f) +
    (1 - P) l(-f) is least.
    """
    margins = np.stack([-scores, scores])[..., None]
    # the ratio is that of slope and loss
    log_loss, ratio = loss.log_risk_and_weights(margins, np.zeros_like(margins))
    against, in_favour = log_loss + np.log(ratio[..., 0])
    odds: np.ndarray = against - in_favour
    return odds


def _log_sigmoid(xp: Any, x: Array) -> Array:
    if isinstance(x, np.ndarray):
        return log_expit(x)
    return xp.minimum(x, xp.zeros_like(x)) - xp.log1p(xp.exp(-xp.abs(x)))


def _exp(xp: Any, values: Array) -> Array:
    """exp of values, in their place where that can be."""
    return np.exp(values, out=values) if isinstance(values, np.ndarray) else xp.exp(values)


def _moderate(margins: Array, log_weight: Array) -> float | None:
    """The smallest of NumPy margins, if no exponential of them and of log weights, unless it is 0,
    over- or underflows; else None.
    """
    if not isinstance(margins, np.ndarray) or not margins.size:
        return None
    most = -0.4 * float(np.log(np.finfo(margins.dtype).tiny))
    smallest, largest = float(margins.min()), float(margins.max())
    if largest == math.inf:  # samples that are left out
        largest = float(np.max(margins, where=margins < math.inf, initial=-math.inf))
    logs = log_weight if log_weight.strides[-1] else log_weight[..., :1]
    lightest = float(logs.min())
    if lightest == -math.inf:
        lightest = float(np.min(logs, where=logs > -math.inf, initial=0.0))
    return smallest if -most < smallest and largest < most and lightest > -most else None


def _moderate_logistic(
    margins: np.ndarray, log_weight: np.ndarray, smallest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The log-risk of the logistic loss, the weights, and the curvatures, at `_moderate` margins.

    With e = exp(-m): l = log(1 + e), -l' = e / (1 + e) and l'' = e / (1 + e)^2.
    """
    e = np.negative(margins)
    np.exp(e, out=e)
    alike = not log_weight.strides[-1]
    share = np.exp(log_weight[..., :1] if alike else log_weight)
    if alike:
        risk = share * _log_product(e, smallest)
    else:
        losses = np.log1p(e)
        losses *= share
        risk = np.sum(losses, axis=-1, keepdims=True)
    up = e + 1
    weights = np.divide(e, up, out=e)
    weights *= share / risk
    return np.log(risk[..., 0]), weights, np.divide(weights, up, out=up)


def _log_product(e: np.ndarray, smallest: float) -> np.ndarray:
    """The logarithm of the product of 1 + e, e = exp(-m) of shape (..., n) with this smallest m, of
    shape (..., 1).

    Many factors are multiplied two by two, (1 + a) (1 + b) = 1 + (a + b + a b), as often as no
    product overflows: so fewer logarithms are taken.
    """
    total = np.zeros_like(e[..., :1])
    most = math.log(np.finfo(e.dtype).max) / max(math.log(2), math.log1p(math.exp(-smallest)))
    count = 1
    while e.shape[-1] > _FEW_LOGARITHMS and 2 * count < most:
        half = e.shape[-1] // 2
        total += np.sum(np.log1p(e[..., 2 * half :]), axis=-1, keepdims=True)
        a, b = e[..., :half], e[..., half : 2 * half]
        e = a * b
        e += a
        e += b
        count *= 2
    return total + np.sum(np.log1p(e), axis=-1, keepdims=True)


def _moderate_intercept(
    margins: np.ndarray, y: np.ndarray, log_weight: np.ndarray, b: float
) -> float | None:
    """The intercept of least logistic risk of one problem, (n,), by Newton's method as in
    `Logistic.intercept`; None where a step of it is long, or a class has no weight.
    """
    classes = []
    for sign in (1.0, -1.0):
        of_class = y == sign
        logs = log_weight[of_class] if log_weight.strides[0] else log_weight[:1]
        classes.append((sign, margins[of_class], np.exp(logs)))
    tiny = np.finfo(margins.dtype).eps
    for _ in range(_MAX_ROOT_STEPS):
        error = rate = 0.0
        for sign, of_class, share in classes:
            slope = of_class + sign * b
            expit(np.negative(slope, out=slope), out=slope)
            weight = share * slope
            total = float(weight.sum())
            if not total > 0:
                return None
            error += sign * math.log(total)
            rate += float(weight @ np.subtract(1, slope, out=slope)) / total
        if not rate > 0 or abs(error) > rate:
            return None
        b += error / rate
        if abs(error / rate) <= tiny**0.5 + 4 * tiny * abs(b):
            return b
    return None


def _log_softplus(xp: Any, margins: Array) -> Array:
    """log log(1 + exp(-m)), equal to -m to the last digit beyond m = 40."""
    inner = xp.minimum(margins, xp.full_like(margins, 40.0))
    return xp.where(margins > 40, -margins, xp.log(-_log_sigmoid(xp, inner)))


def _class_logsumexp(xp: Any, values: Array, members: Array) -> Array:
    if isinstance(values, np.ndarray) and values.shape[:-1] == (1,) == members.shape[:-1]:
        values = values[:, members[0]]
        if not values.size:
            return np.full(1, -math.inf, values.dtype)
        largest = np.max(values, axis=-1)
        if not largest > -math.inf:
            return largest
        values -= largest  # a copy
        return largest + np.log(np.sum(np.exp(values, out=values), axis=-1))
    values = xp.where(members, values, xp.full_like(values[..., :1], -math.inf))
    largest = xp.max(values, axis=-1, keepdims=True)
    return (largest + xp.log(xp.sum(xp.exp(values - largest), axis=-1, keepdims=True)))[..., 0]


def _class_sum(xp: Any, values: Array, members: Array) -> Array:
    return xp.sum(xp.where(members, values, xp.zeros_like(values[..., :1])), axis=-1)


def _class_max(xp: Any, values: Array, members: Array) -> Array:
    """The largest value in a class, (..., 1); 0 where there is none."""
    largest = xp.max(
        xp.where(members, values, xp.full_like(values, -math.inf)), axis=-1, keepdims=True
    )
    return xp.where(largest > -math.inf, largest, xp.zeros_like(largest))


def _entropy_sums(
    xp: Any, log_c: Array, used_weights: Array, log_ratio: Array
) -> tuple[Array, Array, Array]:
    """The sum of s_i H(t_i) over c, t = c a / s; the derivative of the sum by c, and minus the
    derivative of that by log c; each of shape (..., 1).

    With u = 1 - t, s H(t) = c a (-log t - u log(u) / (1 - u)), whose last quotient is -1 at t = 0.
    """
    total = slope = rate = nothing = xp.zeros_like(log_c)
    limits = xp.finfo(log_c.dtype)
    for weights, ratio in _parts(used_weights, log_ratio):
        log_t = xp.minimum(log_c + ratio, nothing)
        # u is a number below 1, and t is rounded as u is: the quotient is as exact as u is then
        left = xp.clip(1 - xp.exp(log_t), limits.tiny, 1 - limits.eps / 2)
        log_left = xp.log(left)
        rest = left * log_left / (1 - left)
        total = total - xp.vecdot(weights, log_t + rest)[..., None]
        slope = slope + xp.vecdot(weights, log_left - log_t)[..., None]
        rate = rate + xp.vecdot(weights, 1 / left)[..., None]
    return total, slope, rate


def _parts(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Arrays (..., n) in parts of their samples: what is computed of a part needs little memory."""
    for start in range(0, arrays[0].shape[-1], _PART):
        yield tuple(array[..., start : start + _PART] for array in arrays)
