"""Certificates from data, a predictor and weights: each claim is what the checker proves.

The threat is an l_q ball with q in {1, 2, inf}.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from sklearn_robust import check, joint_certificates
from sklearn_robust.certificates import repaired_weights
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import Logistic, MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.proofs.certificate import Certificate, CertificateError
from sklearn_robust.proofs.data import LabelledData, exponent_name
from sklearn_robust.proofs.perturbations import ExactBalls, equal_to_sum, nearest_to_sum
from sklearn_robust.proofs.weights import PLACES, ExactWeights
from sklearn_robust.threats import LpBall, is_ball

# shares of the radius by which repaired weights stay inside, so that rounding does not lead out
_INSETS = (1e-13, 1e-11, 1e-9, 1e-7, 1e-5)
_LOSSES = ("exponential", "logistic")


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
        lower, upper = check.Proof().figures(content, data.rows, data.labels)
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


def certify_non_separability(claim: Claim, weights: np.ndarray) -> Certificate:
    """A proof that no predictor separates the data robustly.

    Parameters
    ----------
    claim : Claim
        Without a predictor.
    weights : ndarray of shape (n,) or (K, n)
        Those that prove it up to rounding.

    Returns
    -------
    Certificate
    """
    exact, moved = _exact_proof(claim, _of_rivals(claim.data, weights), 1.0)
    return claim.certificate("margin", _dual(exact, moved), p="2")


def certify_risk(claim: Claim, loss: MarginLoss, weights: np.ndarray | None = None) -> Certificate:
    """The log of the risk of a predictor, and the bound on that of every predictor.

    Parameters
    ----------
    claim : Claim
        Of data that are not robustly separable.
    loss : MarginLoss
        The exponential or the logistic loss.
    weights : ndarray of shape (n,) or (K, n), optional
        Dual weights of the samples of positive weight; by default those of the predictor.

    Returns
    -------
    Certificate

    Raises
    ------
    CertificateError
        For another loss, and where no weights near those of the predictor prove a bound.
    """
    if loss.name not in _LOSSES or not type(loss).__module__.startswith("sklearn_robust."):
        raise CertificateError(
            f"A certificate of a risk needs loss='exponential' or 'logistic', got {loss!r}."
        )
    data, coef = claim.data, claim.coef
    assert coef is not None
    problem = data.problem(claim.threat, claim.fit_intercept)
    if isinstance(problem, JointProblem):
        margins = problem.evaluate(loss, coef.astype(np.float64))
        own, soft = margins.weights, margins.soft_margins
    else:
        evaluation = problem.evaluate(loss, coef.astype(np.float64))
        own, soft = evaluation.weights[0], evaluation.margins[0]
    total = 1.0
    if isinstance(loss, Logistic):  # the sum of the derivatives, s / (1 + e^m)
        size = data.sample_weight[data.sample_weight > 0]
        total = float(size @ (0.5 - 0.5 * np.tanh(0.5 * soft)) / size.sum())
    proof = _of_rivals(data, own if weights is None else weights)
    exact, moved = _exact_proof(claim, proof, total, capped=isinstance(loss, Logistic))
    return claim.certificate("log_risk", _dual(exact, moved), loss=loss.name)


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


def _exact_proof(
    claim: Claim, weights: np.ndarray, total: float, *, capped: bool = False
) -> tuple[ExactWeights, list[np.ndarray]]:
    """Exact weights, of this sum, whose G is exactly a flow of the pairs.

    The given ones, or else those that the library's repair finds a little inside the balls.
    """
    data = claim.data
    problem = data.problem(claim.threat, claim.fit_intercept)
    coef = np.zeros((len(data.classes), data.X.shape[1])) if claim.coef is None else claim.coef
    for near in _inner_weights(problem, data, weights):
        of_sample, scale = near.sum(axis=0), total / near.sum()
        if capped:  # no weight above that of its sample
            size = data.sample_weight / data.sample_weight.sum()
            used = of_sample > 0
            scale = min(scale, (1 - 1e-15) * float(np.min(size[used] / of_sample[used])))
        exact = ExactWeights.of(data, scale * near, claim.fit_intercept)
        moved = equal_to_sum(problem, ExactBalls(claim.threat, exact), coef.astype(np.float64))
        if moved is not None:
            return exact, moved
    raise CertificateError(
        "No weights near those of the fit prove in exact arithmetic that the data are not robustly "
        "separable. Use a slightly larger eps, or data of fewer digits."
    )


def _inner_weights(problem: Any, data: LabelledData, weights: np.ndarray) -> Iterator[np.ndarray]:
    """The weights (K, n), then those of repairs ever further inside the balls."""
    yield weights
    used = data.sample_weight > 0
    for inset in _INSETS:
        if isinstance(problem, JointProblem):
            inner = problem.at_radius((1 - inset) * problem.radius)
            near = joint_certificates.repaired_weights(inner, weights[:, used])
        else:
            inner = replace(problem, radius=(1 - inset) * problem.radius)
            near = repaired_weights(inner, weights.sum(axis=0)[None, used])[0]
        if np.isfinite(near).all():
            yield _of_rivals(data, near)


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
    return {"shift": PLACES, "weights": entries, "perturbations": pairs}


def _hexed(values: Any) -> list[str]:
    return [float(x).hex() for x in values]


def _rounded(x: Fraction, towards: float) -> float:
    """The float next to a fraction on this side."""
    value = float(x)
    if (value < x and towards > 0) or (value > x and towards < 0):
        return math.nextafter(value, towards)
    return value
