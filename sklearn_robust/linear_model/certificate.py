"""The certificate of a fitted linear estimator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_robust._documentation import see
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import LOSSES, MarginLoss
from sklearn_robust.norms import LpNorm
from sklearn_robust.proofs import (
    Certificate,
    CertificateError,
    Claim,
    LabelledData,
    certify_margin,
    certify_non_separability,
    certify_risk,
)
from sklearn_robust.separators.joint import solve_joint_separator
from sklearn_robust.separators.min_norm import solve_separator
from sklearn_robust.solvers import minimise_joint_risk, minimise_robust_risk

# shares of the radius by which a minimiser's is smaller: its weights have that much room
_INSETS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
_TOL = 1e-12  # relative gap of these minimisers, which they reach up to rounding


class CertificateMixin:
    """The certificate of a fit, made from its training data when it is first asked for.

    Until then the estimator refers to the data, without a copy. Copies and pickles have the
    certificate if it was made, and never the data.
    """

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[call-overload]
        state.pop("_training", None)
        return state

    @property
    def certificate_(self) -> Certificate:
        """What the fit proves, as a certificate that anyone can check in exact arithmetic.

        Separable data: the margin of the predictor, and the bound on that of every predictor. Not
        separable: the log of the risk of the predictor, and the bound on that of every predictor;
        for a loss of one's own only that no predictor separates.

        It is made when it is first read, from the data of the fit as they are then: the estimator
        keeps them in memory, without a copy, until it is made.

        Raises
        ------
        CertificateError
            For p or q other than 1, 2 and inf, a threat that is no l_q ball, box or budget of
            features, where separability is not decided, and after copying or pickling.
        """
        check_is_fitted(self)
        best = getattr(self, "best_estimator_", None)
        if best is not None:
            return best.certificate_
        if "_certificate" not in vars(self):
            self._certificate = _certificate(self).content
            del self._training
        return Certificate(self._certificate)

    def __dir__(self) -> list[str]:
        """As scikit-learn's, without `certificate_` until it is made: a look at all attributes, as
        for the diagram, neither computes a certificate nor fails where there is none.
        """
        names = set(object.__dir__(self))  # super() would read each one
        if "_certificate" not in vars(self):
            names.discard("certificate_")
        return [name for name in names if hasattr(self, name)]

    def _remember(
        self, X: Any, y: Any, sample_weight: Any, sample_radius: np.ndarray | None
    ) -> None:
        """Keep the data of this fit for its certificate, and forget the last one's.

        For rows in blocks y is None, and the weights may be a function that reads them.
        """
        vars(self).pop("_certificate", None)
        self._training = X, y, sample_weight, sample_radius


def _certificate(model: Any) -> Certificate:
    """The certificate of a fitted estimator that has its training data."""
    if "_training" not in vars(model):
        raise CertificateError(
            f"The certificate of this {type(model).__name__} was not made before it was copied or "
            "pickled, and the data do not travel with it. Read certificate_ after fit."
            f" {see('guide/proofs')}"
        )
    if model.separable_ is None:
        raise CertificateError(
            f"{type(model).__name__} did not decide whether the data are robustly separable: there "
            "is nothing to certify. See the remedies of its ConvergenceWarning."
            f" {see('questions', 'separable_-is-none')}"
        )
    X, y, weight, radius = model._training
    weight = weight() if callable(weight) else weight
    data = LabelledData.of(X, y, weight, model.classes_)
    coef = model.coef_.toarray() if hasattr(model.coef_, "toarray") else model.coef_
    coef = coef.astype(np.float64)
    claim = Claim(data, model.threat_, coef, model.intercept_, model._fit_intercept, radius)
    if model.separable_:
        return certify_margin(claim, model._p, _separator_weights(claim, model._p))
    loss = getattr(model, "_loss", LOSSES["exponential"])
    if loss.name not in LOSSES:
        exponential = LOSSES["exponential"]
        claim = replace(claim, coef=None, intercept=None)
        return certify_non_separability(claim, _minimiser_weights(claim, exponential, coef))
    return certify_risk(claim, loss, _minimiser_weights(claim, loss, coef))


def _separator_weights(claim: Claim, p: Any) -> np.ndarray:
    """The dual weights of the exact separator of these data, (n,) or (K, n)."""
    if p not in (1.0, 2.0, np.inf):
        return np.empty(0)  # refused by its name
    problem = claim.problem
    if isinstance(problem, JointProblem):
        return np.asarray(solve_joint_separator(problem, LpNorm(p)).weights)
    return solve_separator(problem, LpNorm(p)).dual_coef


def _minimiser_weights(claim: Claim, loss: MarginLoss, coef: np.ndarray) -> Iterator[np.ndarray]:
    """The dual weights, (n,) or (K, n), of minimisers of the risk at radii ever smaller."""
    problem = claim.problem
    for inset in _INSETS:
        if isinstance(problem, JointProblem):
            inner = problem.at_radius((1 - inset) * problem.radius)
            start = coef, problem.evaluate(loss, coef).intercept
            end = minimise_joint_risk(inner, loss, tol=_TOL, start=start)
            if end.separable is False:
                yield end.weights
        else:
            smaller = replace(problem, radius=(1 - inset) * problem.radius)
            found = minimise_robust_risk(smaller, loss, LpNorm(2), tol=_TOL, coef_init=coef)
            if found.separable[0] is False:
                yield found.weights[0]
