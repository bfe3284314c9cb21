"""Certificates from data, a predictor and weights: each claim is what the checker proves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, wraps
from typing import Any

import numpy as np
from scipy.special import expit

from sklearn_robust._documentation import see
from sklearn_robust.check import Proof
from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import best_intercept
from sklearn_robust.losses import Exponential, Logistic, MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.proofs.cancelling import cancelled
from sklearn_robust.proofs.certificate import Certificate, CertificateError
from sklearn_robust.proofs.data import LabelledData
from sklearn_robust.proofs.perturbations import PairSets, equal_to_sum, nearest_to_sum
from sklearn_robust.proofs.sets import SampleSets
from sklearn_robust.proofs.weights import PLACES, ExactWeights, binary_places

# whether the loss's derivative bounds the weight of a sample
_CAPPED: dict[type, bool] = {Exponential: False, Logistic: True}
_LOG_ROOM = Fraction(1, 2**64)
_INSIDE = 1 - 1e-12  # factor that keeps weights below those of their samples
_LEAST = 1e-12  # multiple at which flows are looked for where the largest is 0
_NORMS = {1.0: "1", 2.0: "2", math.inf: "inf"}


@dataclass(frozen=True)
class Claim:
    """What a certificate is about.

    Attributes
    ----------
    data : LabelledData
    threat : Threat
        Bound to the features: an `LpBall`, `Box` or `FeatureBudget`, or one of a radius for each
        class.
    coef : ndarray of shape (1, d) or (K, d), or None
        None where no predictor is claimed.
    intercept : ndarray of shape (1,) or (K,), or None
    fit_intercept : bool
        Whether the predictors compared have a free intercept.
    sample_radius : ndarray of shape (n,), optional
        The factor on the set of each sample.
    """

    data: LabelledData
    threat: Any
    coef: np.ndarray | None
    intercept: np.ndarray | None
    fit_intercept: bool = True
    sample_radius: np.ndarray | None = None

    def __post_init__(self) -> None:
        _ = self.sets  # refuses others

    @cached_property
    def sets(self) -> SampleSets:
        """The sets of the samples."""
        data = self.data
        return SampleSets.of(self.threat, data.X, data.values, self.sample_radius)

    @cached_property
    def problem(self) -> RobustProblem | JointProblem:
        """The problem of the samples of positive weight."""
        return self.data.problem(self.threat, self.fit_intercept, self.sample_radius)

    @property
    def class_coef(self) -> np.ndarray:
        """The coefficients, of as many rows as the problem has, zero where none are claimed."""
        K, d = len(self.data.classes), self.data.X.shape[1]
        return np.zeros((K if K > 2 else 1, d)) if self.coef is None else self.coef

    @cached_property
    def places(self) -> int:
        """The binary places that hold all numbers but the weights, at least those of these."""
        data, sets = self.data, self.sets
        numbers = [data.X, data.sample_weight, sets.eps, sets.radius, *sets.sides]
        if self.coef is not None and self.intercept is not None:
            numbers += [self.coef, self.intercept]
        size = data.sample_weight[data.sample_weight > 0]
        finer = math.log2(size.sum()) - math.log2(size.min())  # weights below those of samples
        return max(PLACES + math.ceil(finer), *map(binary_places, numbers))

    def proof(self, kind: str, places: int, **claim: Any) -> Proof:
        """The checker, after reading a certificate that has no weights yet."""
        data, sets = self.data, self.sets
        predictor = None
        if self.coef is not None and self.intercept is not None:
            coef, intercept = self.coef, self.intercept
            if len(coef) == 1:  # the first of two classes scores 0
                coef, intercept = np.vstack([0 * coef, coef]), np.append(0.0, intercept)
            predictor = {
                "coef": [_hexed(row) for row in coef],
                "intercept": _hexed(intercept),
            }
        content: dict[str, Any] = {
            "format": 2,
            "sha256": data.digest,
            "classes": data.classes,
            "places": places,
            "threat": {
                "q": sets.q,
                "eps": _hexed(sets.eps),
                "sides": [_hexed(side) for side in sets.sides],
            },
            "weight": _hexed(data.sample_weight),
            "radius": _hexed(sets.radius),
            "claim": {"kind": kind, "p": None, "fit_intercept": bool(self.fit_intercept), **claim},
            "predictor": predictor,
            "dual": None,
        }
        proof = Proof()
        proof.read(content, data.rows, data.labels)
        return proof


def _naming_refusals(make: Callable[..., Certificate]) -> Callable[..., Certificate]:
    """A maker of certificates that raises a `CertificateError` where exact arithmetic fails."""

    @wraps(make)
    def named(*args: Any, **options: Any) -> Certificate:
        try:
            return make(*args, **options)
        except CertificateError:
            raise
        except (ValueError, ArithmeticError) as error:
            raise CertificateError(
                f"This answer cannot be written in exact arithmetic: {error}. Use finite data, "
                "weights and predictors, and scale the features to sizes near 1."
                f" {see('guide/proofs')}"
            ) from error

    return named


def _certificate(proof: Proof, dual: dict[str, Any] | None) -> Certificate:
    """The certificate whose claim is what the checker proves, rounded outwards."""
    content = proof.c
    content["dual"] = dual
    kind = content["claim"]["kind"]
    lower, upper = proof.figures(kind)
    if kind == "log_risk":  # what another checker needs for its logarithms
        lower, upper = lower - _LOG_ROOM, upper + _LOG_ROOM
    content["claim"]["lower"] = _rounded(Fraction(lower), -math.inf).hex()
    content["claim"]["upper"] = _rounded(Fraction(upper), math.inf).hex()
    return Certificate(content)


@_naming_refusals
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
        If p is another.
    """
    name = _NORMS.get(p) if isinstance(p, int | float) else None
    if name is None:
        raise CertificateError(
            f"A certificate of a margin needs p in {{1, 2, inf}}, got p={p!r}. Use one of these."
            f" {see('guide/proofs')}"
        )
    exact = _exact(claim, _of_rivals(claim.data, weights))
    proof = claim.proof("margin", exact.places, p=name)
    sets = PairSets.of(proof, exact)
    moved = nearest_to_sum(claim.problem, LpNorm(float(p)), sets, claim.class_coef)
    return _certificate(proof, _dual(sets, moved))


@_naming_refusals
def certify_factor(claim: Claim, weights: np.ndarray, bound: float) -> Certificate:
    """The largest multiple of the sets of the samples at which a predictor is right.

    Parameters
    ----------
    claim : Claim
        Without a predictor where the largest is 0.
    weights : ndarray of shape (n,) or (K, n)
        Those that prove that none is right beyond it, as those of `max_margin`.
    bound : float
        The multiple that they prove, about.

    Returns
    -------
    Certificate

    Raises
    ------
    CertificateError
        If there are limits, or the weights prove no bound.
    """
    if claim.sets.has_limits:
        raise CertificateError(
            "Sets with limits have no multiples that a certificate could be about. Leave out clip."
            f" {see('guide/proofs')}"
        )
    problem = claim.problem
    if isinstance(problem, JointProblem) and claim.coef is not None and claim.fit_intercept:
        at_bound = problem.at_radius(bound * problem.radius)
        pairs = at_bound.pair_margins(claim.coef, at_bound.penalties(claim.coef))
        claim = replace(claim, intercept=best_intercept(pairs)[0])
    exact = _cancelling(claim, _of_rivals(claim.data, weights))
    moved = None
    if exact is not None:
        proof = claim.proof("factor", exact.places)
        sets = PairSets.of(proof, exact)
        moved = equal_to_sum(problem, sets, claim.class_coef, max(bound, _LEAST))
    if moved is None or any(
        sets.size(delta, pair) is None for delta, pair in zip(moved, sets.pairs, strict=True)
    ):
        raise CertificateError(
            "The weights of this answer prove no bound in exact arithmetic. Use a smaller tol."
            f" {see('guide/proofs')}"
        )
    return _certificate(proof, _dual(sets, moved))


@_naming_refusals
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
            f" {see('guide/proofs')}"
        )
    total = 1.0
    if capped:
        total = _total_derivative(claim.data, claim.problem, loss, claim.class_coef)
    near = (_scaled(claim.data, weights, total, capped=capped) for weights in proofs)
    return _proven(claim, "log_risk", near, loss=loss.name)


@_naming_refusals
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
    near = (_scaled(claim.data, weights, 1.0, capped=False) for weights in proofs)
    return _proven(claim, "margin", near, p="2")


def _proven(claim: Claim, kind: str, proofs: Iterator[np.ndarray], **of: Any) -> Certificate:
    """The certificate by the first weights (K, n) for which G + F = 0 with F in the sets."""
    for near in proofs:
        if not near.any():
            continue
        exact = _cancelling(claim, near)
        if exact is None:
            continue
        proof = claim.proof(kind, exact.places, **of)
        sets = PairSets.of(proof, exact)
        moved = equal_to_sum(claim.problem, sets, claim.class_coef)
        if moved and all(map(sets.holds, moved, sets.pairs)):
            try:
                return _certificate(proof, _dual(sets, moved))
            except ValueError:  # rounding puts a weight above that of its sample
                continue
    raise CertificateError(
        "No weights near those of the fit prove in exact arithmetic that the data are not robustly "
        f"separable against threat={claim.threat!r}. Use a smaller tol, or a slightly larger set."
        f" {see('guide/proofs')}"
    )


@_naming_refusals
def certify_accuracy(claim: Claim) -> Certificate:
    """The exact robust accuracy of a predictor.

    Parameters
    ----------
    claim : Claim

    Returns
    -------
    Certificate
    """
    return _certificate(claim.proof("accuracy", claim.places), None)


def _exact(claim: Claim, near: np.ndarray) -> ExactWeights:
    """The weights of the claim as integers."""
    if claim.sets.has_limits and claim.sets.q != "inf":
        raise CertificateError(
            "Flips differ from sample to sample: only the accuracy of a score against them can be "
            "written as a certificate. Use robust_accuracy_certificate."
            f" {see('guide/proofs')}"
        )
    return ExactWeights.of(claim.data, near, claim.fit_intercept, claim.places)


def _cancelling(claim: Claim, near: np.ndarray) -> ExactWeights | None:
    """Exact weights with G = 0 in the features that no sample can move; None where none are near
    these (K, n).
    """
    return cancelled(_exact(claim, near), claim.sets.fixed, claim.fit_intercept)


def _scaled(data: LabelledData, weights: np.ndarray, total: float, *, capped: bool) -> np.ndarray:
    """Weights (K, n) of this sum; where they are capped no sample has more than its own weight."""
    near = total * _of_rivals(data, weights / weights.sum())
    if capped:
        of_sample, size = near.sum(axis=0), data.sample_weight / data.sample_weight.sum()
        used = of_sample > 0
        near *= min(1.0, _INSIDE * float(np.min(size[used] / of_sample[used], initial=1.0)))
    return near


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


def _dual(sets: PairSets, moved: list[np.ndarray]) -> dict[str, Any]:
    """Weights and perturbations as the checker reads them."""
    entries = [[i, k, f"{a:x}"] for (i, k), a in sorted(sets.weights.entries.items())]
    pairs = [
        [*pair, [f"{int(x):x}" for x in delta]]
        for pair, delta in zip(sets.pairs, moved, strict=True)
        if pair in sets.bounds
    ]
    return {"weights": entries, "perturbations": pairs}


def _hexed(values: Any) -> list[str]:
    return [float(x).hex() for x in values]


def _rounded(x: Fraction, towards: float) -> float:
    """The float next to a fraction on this side."""
    value = float(x)
    if (value < x and towards > 0) or (value > x and towards < 0):
        return math.nextafter(value, towards)
    return value
