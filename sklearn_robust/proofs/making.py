"""Certificates from data, a predictor and weights: each claim is what the checker proves.

The threat is an l_q ball with q in {1, 2, inf}.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.special import expit

from sklearn_robust.check import Proof
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import Exponential, Logistic, MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.proofs.cancelling import cancelled
from sklearn_robust.proofs.certificate import Certificate, CertificateError
from sklearn_robust.proofs.data import LabelledData, exponent_name
from sklearn_robust.proofs.perturbations import ExactBalls, equal_to_sum, nearest_to_sum
from sklearn_robust.proofs.weights import ExactWeights
from sklearn_robust.threats import is_ball

# whether the loss's derivative bounds the weight of a sample
_CAPPED: dict[type, bool] = {Exponential: False, Logistic: True}
_LOG_ROOM = Fraction(1, 2**64)
_INSIDE = 1 - 1e-12  # factor that keeps weights below those of their samples


@dataclass(frozen=True)
class Claim:
    """What a certificate is about.

    Attributes
    ----------
    data : LabelledData
    threat : LpBall
    coef : ndarray of shape (1, d) or (K, d), or None
        None where no predictor is claimed.
    intercept : ndarray of shape (1,) or (K,), or None
    fit_intercept : bool
        Whether the predictors compared have a free intercept.
    """

    data: LabelledData
    threat: Any  # LpBall
    coef: np.ndarray | None
    intercept: np.ndarray | None
    fit_intercept: bool = True

    def __post_init__(self) -> None:
        if not is_ball(self.threat) or exponent_name(self.threat.q) is None:
            given = f"q={self.threat.q:g}" if is_ball(self.threat) else type(self.threat).__name__
            raise CertificateError(
                f"A certificate is about l_q balls with q in {{1, 2, inf}}, got threat={given}. "
                "Certify against an LpBall of these."
            )

    def certificate(self, kind: str, dual: dict[str, Any] | None, **claim: Any) -> Certificate:
        """The certificate whose claim is what the checker proves, rounded outwards."""
        data, ball = self.data, self.threat
        scale = np.ones(data.X.shape[1]) if ball.scale is None else ball.scale
        predictor = None
        if self.coef is not None and self.intercept is not None:
            predictor = {
                "coef": [_hexed(row) for row in self.coef],
                "intercept": _hexed(self.intercept),
            }
        content: dict[str, Any] = {
            "format": 1,
            "sha256": data.digest,
            "classes": data.classes,
            "threat": {
                "q": exponent_name(ball.q),
                "eps": float(ball.eps).hex(),
                "scale": _hexed(scale),
            },
            "sample_weight": _hexed(data.sample_weight),
            "claim": {"kind": kind, "p": None, "fit_intercept": bool(self.fit_intercept), **claim},
            "predictor": predictor,
            "dual": dual,
        }
        lower, upper = Proof().figures(content, data.rows, data.labels)
        if kind == "log_risk":  # what another checker needs for its logarithms
            lower, upper = lower - _LOG_ROOM, upper + _LOG_ROOM
        content["claim"]["lower"] = _rounded(lower, -math.inf).hex()
        content["claim"]["upper"] = _rounded(upper, math.inf).hex()
        return Certificate(content)


def certify_margin(claim: Claim, p: Any, weights: np.ndarray) -> Certificate:
    r"""The margin of a predictor in the p-norm, and the bound on that of every predictor.

    Parameters
    ----------
    claim : Claim
    p : float
        1, 2 or inf.
    weights : ndarray of shape (n,) or (K, n)
        Dual weights of the samples of positive weight, as those of a `Separator`.

    Returns
    -------
    Certificate

    Raises
    ------
    CertificateError
        If p is another, or the threat is no l_q ball with q in {1, 2, inf}.
    """
    name = exponent_name(p) if isinstance(p, int | float) else None
    if name is None:
        raise CertificateError(
            f"A certificate of a margin needs p in {{1, 2, inf}}, got p={p!r}. Use one of these."
        )
    data, coef = claim.data, claim.coef
    assert coef is not None
    exact = ExactWeights.of(data, _of_rivals(data, weights), claim.fit_intercept)
    problem = data.problem(claim.threat, claim.fit_intercept)
    moved = nearest_to_sum(problem, LpNorm(float(p)), ExactBalls(claim.threat, exact), coef)
    return claim.certificate("margin", _dual(exact, moved), p=name)


def certify_risk(claim: Claim, loss: MarginLoss, proofs: Iterable[np.ndarray]) -> Certificate:
    """The log of the risk of a predictor, and the bound on that of every predictor.

    Parameters
    ----------
    claim : Claim
        Its data are not robustly separable.
    loss : MarginLoss
        The exponential or the logistic loss.
    proofs : iterable of ndarray of shape (n,) or (K, n)
        Dual weights of the samples of positive weight, tightest first: those of minimisers at
        radii ever smaller than that of the claim. The first that prove a bound in exact arithmetic
        are taken.

    Returns
    -------
    Certificate

    Raises
    ------
    CertificateError
        For another loss, and where none of the weights prove a bound.
    """
    capped = _CAPPED.get(type(loss))
    if capped is None:
        raise CertificateError(
            f"A certificate of a risk needs loss='exponential' or 'logistic', got {loss!r}."
        )
    data, coef = claim.data, claim.coef
    total = 1.0
    assert coef is not None
    if capped:
        problem = data.problem(claim.threat, claim.fit_intercept)
        total = _total_derivative(data, problem, loss, coef)
    dual = _exact_dual(claim, proofs, total, capped=capped)
    return claim.certificate("log_risk", dual, loss=loss.name)


def certify_non_separability(claim: Claim, proofs: Iterable[np.ndarray]) -> Certificate:
    """That no predictor separates the data robustly: the largest margin is 0.

    Parameters
    ----------
    claim : Claim
        Without a predictor.
    proofs : iterable of ndarray of shape (n,) or (K, n)
        As in `certify_risk`.

    Returns
    -------
    Certificate

    Raises
    ------
    CertificateError
        Where none of the weights prove it.
    """
    return claim.certificate("margin", _exact_dual(claim, proofs, 1.0), p="2")


def _exact_dual(
    claim: Claim, proofs: Iterable[np.ndarray], total: float, *, capped: bool = False
) -> dict[str, Any]:
    """The first weights, scaled to this sum, whose G is exactly a flow of the pairs.

    Where they are capped no sample has more weight than its sample weight.
    """
    data, fixed = claim.data, _fixed_features(claim)
    problem = data.problem(claim.threat, claim.fit_intercept)
    coef = np.zeros((len(data.classes), data.X.shape[1])) if claim.coef is None else claim.coef
    for weights in proofs:
        near = total * _of_rivals(data, weights / weights.sum())
        if capped:
            of_sample, size = near.sum(axis=0), data.sample_weight / data.sample_weight.sum()
            used = of_sample > 0
            near *= min(1.0, _INSIDE * float(np.min(size[used] / of_sample[used])))
        exact = cancelled(
            ExactWeights.of(data, near, claim.fit_intercept), fixed, claim.fit_intercept
        )
        if exact is None:
            continue
        moved = equal_to_sum(problem, ExactBalls(claim.threat, exact), coef)
        if moved is not None:
            return _dual(exact, moved)
    raise CertificateError(
        "No weights near those of the fit prove in exact arithmetic that the data are not robustly "
        f"separable at eps={claim.threat.eps:g}. Use a smaller tol, or a slightly larger eps."
    )


def _fixed_features(claim: Claim) -> np.ndarray:
    """The features out of the adversary's reach."""
    d, ball = claim.data.X.shape[1], claim.threat
    if ball.eps == 0:
        return np.arange(d)
    return np.arange(0) if ball.scale is None else np.flatnonzero(np.asarray(ball.scale) == 0)


def _total_derivative(
    data: LabelledData, problem: RobustProblem | JointProblem, loss: MarginLoss, coef: np.ndarray
) -> float:
    """The sum of the derivatives s / (1 + e^m) of the logistic losses: that of the best weights."""
    if isinstance(problem, JointProblem):
        margins = problem.evaluate(loss, coef).soft_margins
    else:
        margins = problem.evaluate(loss, coef).margins[0]
    size = data.sample_weight[data.sample_weight > 0]
    return float(size @ expit(-margins) / size.sum())


def certify_accuracy(claim: Claim) -> Certificate:
    """The exact robust accuracy of a predictor.

    Parameters
    ----------
    claim : Claim

    Returns
    -------
    Certificate
    """
    return claim.certificate("accuracy", None)


def _of_rivals(data: LabelledData, weights: np.ndarray) -> np.ndarray:
    """Weights of the samples of positive weight, (m,) or (K, m), as (K, n) of all samples."""
    used = np.flatnonzero(data.sample_weight > 0)
    all_weights = np.zeros((len(data.classes), len(data.y)))
    if weights.ndim == 2 and weights.shape[1] == len(data.y):
        return weights
    if weights.ndim == 1:
        all_weights[1 - data.y[used], used] = weights
    else:
        all_weights[:, used] = weights
    return all_weights


def _dual(exact: ExactWeights, moved: list[np.ndarray]) -> dict[str, Any]:
    """Weights and perturbations as the checker reads them."""
    entries = [[i, k, f"{a:x}"] for (i, k), a in sorted(exact.entries.items())]
    pairs = [[f"{int(x):x}" for x in delta] for delta in moved]
    return {"shift": exact.places, "weights": entries, "perturbations": pairs}


def _hexed(values: Any) -> list[str]:
    return [float(x).hex() for x in values]


def _rounded(x: Fraction, towards: float) -> float:
    """The float next to a fraction on this side."""
    value = float(x)
    if (value < x and towards > 0) or (value > x and towards < 0):
        return math.nextafter(value, towards)
    return value
