"""The public answer of the exact solvers: a separator with its proof, or an error.

The threat is an l_q ball, or another set in cones.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import _get_feature_names, check_X_y

from sklearn_robust._documentation import see
from sklearn_robust._glance import margin_bar
from sklearn_robust._joint_sets import JointSets
from sklearn_robust._parameters import check_choice, check_exponent, read_scale, refuse_lazy
from sklearn_robust.certificates import Certified
from sklearn_robust.joint import JointProblem
from sklearn_robust.norms import MATRIX_NORMS, LpNorm, Norm, SchattenNorm, norm_of
from sklearn_robust.problems import RobustProblem
from sklearn_robust.proofs import (
    Certificate,
    CertificateError,
    Claim,
    LabelledData,
    certify_factor,
    certify_margin,
)
from sklearn_robust.rows import BlockRows
from sklearn_robust.separators._max_margin_form import Vector
from sklearn_robust.threats import LpBall, bound_threat, check_is_threat, is_ball


@dataclass(frozen=True)
class Separator:
    r"""A robust linear separator <w, x> + b, with the proof of its margin.

    It is scaled so that its smallest robust margin is 1: among all such, w has the least p-norm, up
    to `relative_gap`. Of K > 2 classes it is a matrix W (K, d) with intercepts (K,), and its
    margins are those of every sample against every other class. Classes are in the order of
    `numpy.unique(y)`.

    Attributes
    ----------
    coef : ndarray of shape (d,) or (K, d)
        w; zero where `max_margin` found that no separator exists.
    intercept : float or ndarray of shape (K,)
        b; 0 without an intercept. Several have the sum 0.
    margin : float
        :math:`\min_i m_i(w) / \|w\|_p` less its rounding, in the units of the features: a lower
        bound on the margin of this separator. Of several classes :math:`\min_{ik} m_{ik} /
        \|W\|_p`, and in `max_margin` the smallest distance, :math:`\min_{ik} m_{ik} / \|s (w_{y_i}
        - w_k)\|_{q^*}`.
    margin_bound : float
        D(dual_coef) plus its rounding: no predictor has a larger margin.
    relative_gap : float
        1 - margin / margin_bound. Where the margin is 0, margin_bound over the largest q-norm of a
        sample.
    dual_coef : ndarray of shape (n,) or (K, n)
        The weights that prove the bound: >= 0 and of sum 1, with an intercept of sum 1/2 in each
        class. Several classes have a weight for each sample and rival, with intercepts as much of
        each class as against it.
    perturbation : ndarray of shape (d,), (n, d), (K, K, d) or (K, n, d)
        The worst perturbation: x_i - y_i perturbation is where the adversary moves sample i, with
        one for each sample where their sets differ. Of several classes entry (l, k) is taken from
        a sample of class l to lead it to class k; where sets differ entry (k, i) is taken from
        sample i.
    p : float, "spectral" or "nuclear"
        The norm of the margin.
    q, eps : float
        The threat, an l_q ball; None for another set, and then eps is the factor on it.
    fit_intercept : bool
    solver : str
        The engine that found the predictor.
    scale : ndarray of shape (d,) or None
        The scale s_j of each feature; the threat is :math:`\|\delta / s\|_q \le \epsilon`.
    threat : Threat or None
        The set, where it is not one l_q ball.
    certificate : Certificate
        The proof as a file, made when first read: until then the separator refers to its data.
    """

    coef: Vector
    intercept: Any  # float or Vector
    margin: float
    margin_bound: float
    relative_gap: float
    dual_coef: Vector
    perturbation: Vector
    p: Any  # float or str
    q: float | None
    eps: float
    fit_intercept: bool
    solver: str
    scale: Vector | None = None
    threat: Any = None
    # X, y, the threat, the factors of the samples and whether the margin is one, for certificates
    _data: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold a certificate that was made, and not the data."""
        return {**vars(self), "_data": None}

    def on(
        self,
        X: Any,
        y: Any,
        threat: Any = None,
        sample_radius: Any = None,
        *,
        is_factor: bool = False,
    ) -> Self:
        """The same separator, which knows its data until it is copied: its certificate needs them.

        Parameters
        ----------
        X, y, threat, sample_radius
            As they were given to the solver.
        is_factor : bool, default=False
            Whether the margin is a factor on the sets, as that of `max_margin` is, and no ratio to
            the p-norm.

        Returns
        -------
        Separator
        """
        return replace(self, _data=(X, y, threat, sample_radius, is_factor))

    @cached_property
    def certificate(self) -> Certificate:
        """The margin and its bound as a certificate that anyone can check, made when first asked
        for: until then a solver's answer refers to its data, without a copy.

        Raises
        ------
        CertificateError
            If p or q is none of 1, 2 and inf, after copying and pickling, for a threat that is no
            l_q ball, box or budget of features, and for an infinite margin.
        """
        if self._data is None:
            raise CertificateError(
                "The certificate needs the data, which copies and pickles of a separator do not "
                "have. Read it from what the solver returns, before it is copied."
                f" {see('guide/proofs')}"
            )
        X, y, threat, sample_radius, is_factor = self._data
        labels = np.unique(np.asarray(X.y if y is None else y))
        labels = np.array([-1, 1]) if len(labels) == 1 else labels
        data = LabelledData.of(X, y, classes=labels)
        if threat is None:
            assert self.q is not None  # without a threat there is one
            threat = LpBall(self.q, 1.0 if is_factor else self.eps, self.scale)
        threat = bound_threat(threat, data.X.shape[1], _get_feature_names(X), labels.tolist())
        coef, intercept = np.atleast_2d(self.coef), np.atleast_1d(self.intercept)
        found = None if is_factor and self.margin <= 0 else coef
        claim = Claim(data, threat, found, intercept, self.fit_intercept, sample_radius)
        if is_factor:
            certificate = self._factor_certificate(claim)
        else:
            certificate = certify_margin(claim, self.p, self.dual_coef)
        vars(self)["_data"] = None  # it is made, and they are needed no more
        return certificate

    def _factor_certificate(self, claim: Claim) -> Certificate:
        """That of the largest multiple of the sets."""
        if self.margin == math.inf:
            raise CertificateError(
                "An infinite margin has no certificate of a factor: the separator is right at "
                "every eps. Certify min_norm_separator at some eps."
                f" {see('guide/proofs')}"
            )
        known = self.margin_bound if self.margin_bound < math.inf else self.margin
        return certify_factor(claim, self.dual_coef, known)

    @classmethod
    def of(
        cls, problem: RobustProblem | JointProblem, norm: Any, certified: Certified, gap: float
    ) -> Separator:
        """The separator of a certified point."""
        threat = problem.threat
        plain = is_ball(threat) and problem.adversary is None
        return cls(
            coef=certified.coef,
            intercept=certified.intercept,
            margin=certified.margin,
            margin_bound=certified.bound,
            relative_gap=gap,
            dual_coef=certified.weights,
            perturbation=_perturbation(problem, certified.coef),
            p=geometry_of(norm),
            q=threat.q if plain else None,
            eps=float(np.squeeze(problem.radius)),
            fit_intercept=problem.fit_intercept,
            solver=certified.solver,
            scale=threat.scale if plain else None,
            threat=None if plain else threat,
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>{margin_bar(self.margin, self.margin_bound)}"

    def __repr__(self) -> str:
        p = self.p if isinstance(self.p, str) else f"{self.p:g}"
        name = type(self.threat).__name__
        ball = f"q={self.q:g}, eps={self.eps:.4g}" if self.threat is None else f"threat={name}"
        threat = f"p={p}, {ball}"
        figures = f"margin={self.margin:.4g}, relative_gap={self.relative_gap:.2g}"
        features, samples = np.atleast_2d(self.coef), np.atleast_2d(self.dual_coef)
        used = f"{np.count_nonzero(features.any(axis=0))} of {features.shape[1]} features"
        rows = f"{np.count_nonzero(samples.any(axis=0))} of {samples.shape[1]} samples"
        return (
            f"Separator({threat}, fit_intercept={self.fit_intercept}, {figures}, "
            f"solver={self.solver!r}: uses {used}, {rows})"
        )


def _perturbation(problem: RobustProblem | JointProblem, coef: Vector) -> Vector:
    """The worst perturbation, (d,), those of the samples, (n, d), of the pairs of classes, (K, K,
    d), or of the samples for each rival, (K, n, d).
    """
    if isinstance(problem, RobustProblem):
        if problem.adversary is not None:
            return problem.radius[0] * problem.adversary.perturbations(coef)
        return problem.perturbation(coef[None])[0]
    if problem.adversary is not None:
        assert isinstance(problem.adversary, JointSets)
        return -problem.radius * problem.adversary.perturbations(coef)
    K, (low, high) = problem.n_classes, problem.pairs
    worst = problem.radius * problem.threat.worst(problem.pair_differences(coef))
    perturbation = np.zeros((K, K, problem.n_features))
    perturbation[low, high], perturbation[high, low] = worst, -worst
    return perturbation


class NotSeparableError(ValueError):
    r"""No predictor classifies every sample rightly under every perturbation of size eps.

    Attributes
    ----------
    eps : float
        The radius asked for.
    eps_star : float
        The largest radius below which a robust separator exists; 0 where the data are not linearly
        separable at all.
    weights : ndarray of shape (n,) or (K, n)
        The proof: weights of the simplex (of equal class sums with an intercept) with :math:`\|Z^T
        a\|_q \le \epsilon`. Where eps equals eps_star, up to the relative precision of eps_star,
        and where it is 0 up to rounding. For several classes the weights of each sample and rival,
        a proof by `joint_certificates.feasibility`.
    fit_intercept : bool
        Whether the intercept was free.
    perturbations : ndarray of shape (K(K-1)/2, d) or None
        For several classes the points of the unit ball for the pairs of classes with which the
        weights prove it.
    threat : str or None
        The set, where it is no l_q ball: eps is then the factor on it, and eps_star the critical
        one.
    """

    def __init__(
        self,
        eps: float,
        eps_star: float,
        weights: Vector,
        fit_intercept: bool = True,
        perturbations: Vector | None = None,
        threat: str | None = None,
    ) -> None:
        reason, remedy = "they are not linearly separable, eps* = 0", ""
        if eps_star > 0 and threat is None:
            reason = f"a robust separator exists only for eps < eps* = {eps_star:.8g}"
            remedy = "a smaller eps, or "
        elif eps_star > 0:
            reason = f"a robust separator exists only against less than {eps_star:.8g} times it"
            remedy = "a smaller set, or "
        if not fit_intercept:
            remedy += "fit_intercept=True, with which eps* may be larger, or "
        super().__init__(
            f"No linear predictor separates the classes with "
            f"{f'eps={eps:.8g}' if threat is None else f'threat={threat}'}: {reason}. Use "
            f"{remedy}RobustLinearClassifier, which minimises the robust risk instead. "
            f"{see('guide/separators')}"
        )
        self.eps = eps
        self.eps_star = eps_star
        self.weights = weights
        self.fit_intercept = fit_intercept
        self.perturbations = perturbations
        self.threat = threat

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.eps,
            self.eps_star,
            self.weights,
            self.fit_intercept,
            self.perturbations,
            self.threat,
        )


def read_norm(p: Any, n_classes: int) -> Norm:
    """The norm of an exponent in [1, inf], or a matrix norm by name, for so many classes."""
    return norm_of(p if isinstance(p, str) else LpNorm(p), n_classes)


def geometry_of(norm: Norm) -> Any:
    """The p of `read_norm`, an exponent or the name of a matrix norm; None for another norm."""
    if isinstance(norm, SchattenNorm):
        names = {exponent: name for name, exponent in MATRIX_NORMS.items()}
        return names.get(norm.p)
    return norm.p if isinstance(norm, LpNorm) else None


def check_geometry(p: Any, name: str = "p") -> float | str:
    """An exponent in [1, inf], as a float, or the name of a matrix norm."""
    if not isinstance(p, str):
        return check_exponent(p, name)
    if p not in MATRIX_NORMS:
        raise ValueError(
            f"{name} must be a real number in [1, inf] or one of {list(MATRIX_NORMS)}, got {p!r}."
        )
    return p


def read_threat(threat: Any, q: Any, eps: Any, scale: Any) -> Any:
    """None for the l_q ball of q, eps and scale; else the threat, which takes their place."""
    if threat is None:
        if q is None or eps is None:
            raise ValueError(f"q and eps, or threat, must be given, got q={q!r} and eps={eps!r}.")
        return None
    if not (q is None and scale is None):
        raise ValueError(
            f"threat takes the place of q, eps and scale, got threat={threat!r} beside q={q!r} and "
            f"scale={scale!r}: leave out one or the others."
        )
    check_is_threat(threat)
    return threat


def read_problem_of_threat(
    X: Any, y: Any, threat: Any, fit_intercept: bool, sample_radius: Any
) -> RobustProblem | JointProblem:
    """The problem of a user's data and a threat; a joint one for several classes."""
    check_choice(fit_intercept, "fit_intercept", (True, False))
    refuse_lazy(X=X, y=y)
    names = _get_feature_names(X)
    X, y = check_X_y(X, y, accept_sparse=("csr", "csc"), dtype=np.float64)
    X = sparse.csr_array(X) if sparse.issparse(X) else X
    classes, index = np.unique(y, return_inverse=True)
    threat = bound_threat(threat, X.shape[1], names, classes.tolist())
    if len(classes) > 2:
        return JointProblem.from_data(
            X,
            index,
            threat=threat,
            fit_intercept=fit_intercept,
            sample_radius=sample_radius,
            labels=classes.tolist(),
        )
    return RobustProblem.from_data(
        X,
        _signs(y, classes, fit_intercept),
        threat=threat,
        fit_intercept=fit_intercept,
        sample_radius=sample_radius,
        classes=classes.tolist() if len(classes) == 2 else None,
    )


def read_problem(
    X: Any, y: Any, q: float, eps: float, fit_intercept: bool, scale: Any
) -> RobustProblem | JointProblem:
    """The problem that a user's data and parameters state; a joint one for several classes."""
    check_choice(fit_intercept, "fit_intercept", (True, False))
    if isinstance(X, BlockRows):
        return _problem_of_blocks(X, y, q, eps, fit_intercept)
    refuse_lazy(X=X, y=y)
    names = _get_feature_names(X)
    X, y = check_X_y(X, y, accept_sparse=("csr", "csc"), dtype=np.float64)
    X = sparse.csr_array(X) if sparse.issparse(X) else X
    scale = read_scale(scale, X.shape[1], names)
    classes, index = np.unique(y, return_inverse=True)
    given: dict[str, Any] = {"q": q, "eps": eps, "fit_intercept": fit_intercept, "scale": scale}
    if len(classes) > 2:
        return JointProblem.from_data(X, index, **given)
    return RobustProblem.from_data(X, _signs(y, classes, fit_intercept), **given)


def needs_sums(X: Any, scale: Any) -> bool:
    """Whether X are rows in blocks of several classes, or with scales: they are known by sums."""
    if not isinstance(X, BlockRows):
        return False
    return scale is not None or bool(np.count_nonzero(X.survey.weights) > 2)


def _problem_of_blocks(
    rows: BlockRows, y: Any, q: float, eps: float, fit_intercept: bool
) -> RobustProblem:
    """The problem of two classes that rows in blocks state."""
    rows.refuse_beside(y=y)
    used = slice(None) if rows.sample_weight is None else rows.sample_weight > 0
    classes = np.unique(rows.y[used])
    labels = np.ones(rows.shape[0])
    labels[used] = _signs(rows.y[used], classes, fit_intercept)
    return RobustProblem.from_data(
        rows,
        labels,
        q=q,
        eps=eps,
        fit_intercept=fit_intercept,
        sample_weight=rows.sample_weight,
    ).in_double_arithmetic()


def _signs(y: NDArray[Any], classes: NDArray[Any], fit_intercept: bool) -> Vector:
    """Labels in {-1, +1} of at most two classes: the greater class is +1."""
    if len(classes) == 2:
        return np.where(y == classes[1], 1.0, -1.0)
    if fit_intercept:
        raise ValueError(
            f"y must hold two classes or more, got only {classes[0]!r}: with fit_intercept=True "
            "the intercept alone classifies it. Use fit_intercept=False, or data of both classes."
        )
    if not np.isin(classes, [-1, 1]).all():
        raise ValueError(
            f"y holds only the class {classes[0]!r}, which tells no side of the separator. Use "
            f"labels -1 and +1, or "
            "data of both classes."
            f" {see('guide/separators')}"
        )
    return y.astype(np.float64)


def warn_of_gap(gap: float, tol: float) -> None:
    """A ConvergenceWarning at the caller of the public function, which calls this one, where the
    gap is above tol.
    """
    if gap > tol:
        warnings.warn(
            f"The separator's certified relative gap is {gap:.2g}, above tol={tol:.2g}. Scale the "
            "features to similar sizes, move eps away from eps*, or accept a larger tol. "
            f"{see('questions', 'a-convergencewarning-names-a-gap-may-i-use-the-fit')}",
            ConvergenceWarning,
            stacklevel=3,
        )
