"""Which margin a classifier has made large: its margins in several norms, over the largest."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from sklearn.utils import check_array

from sklearn_robust._parameters import seen_class_index
from sklearn_robust.inspection._implicit_bias import (
    has_intercept,
    smallest_margin,
    training_index,
)
from sklearn_robust.metrics.linear_view import LinearView, linear_view, unwrapped
from sklearn_robust.separators import min_norm_separator
from sklearn_robust.separators.separator import check_geometry

_NORMS = (1, 2, math.inf, "spectral", "nuclear")


@dataclass(frozen=True)
class MarginReport:
    """The margins of a classifier in several norms.

    Attributes
    ----------
    norms : tuple of float or {"spectral", "nuclear"}
    margins : ndarray of shape (n_norms,)
        The smallest margin over each norm of the coefficients; of a network over the L-th power of
        each norm of its parameters.
    largest : ndarray of shape (n_norms,)
        The largest such margins: exact for linear classifiers, where they are not given; nan where
        nobody knows them, as for networks.
    degree : int
        The degree L of the network; 1 for a linear classifier.
    """

    norms: tuple[float | str, ...]
    margins: np.ndarray
    largest: np.ndarray
    degree: int

    @property
    def ratios(self) -> np.ndarray:
        """The margins over the largest ones, of shape (n_norms,); 1 at the limit."""
        return self.margins / self.largest

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __str__(self) -> str:
        known = bool(np.isfinite(self.largest).all())
        figures = self.ratios if known else self.margins
        names = (norm if isinstance(norm, str) else f"p={norm:g}" for norm in self.norms)
        shown = ", ".join(f"{n} {f:.4g}" for n, f in zip(names, figures, strict=True))
        return f"{'margin over the largest' if known else 'normalised margin'}: {shown}"


def margin_report(
    model: Any,
    X: Any,
    y: ArrayLike,
    *,
    norms: Sequence[float | str] = _NORMS,
    q: float = 2,
    eps: float = 0.0,
    largest: ArrayLike | None = None,
) -> MarginReport:
    r"""The margins of a classifier in several norms, beside the largest margins of its training
    data.

    Optimisers that fit separable data tend to a large margin, each in its own norm. The report says
    how much of the largest margin a classifier has in each: for linear classifiers with
    coefficients W

    .. math:: \frac{\gamma(W)}{\max_V \gamma(V)}, \qquad \gamma(W) = \min_i \min_{k \ne y_i}
       \frac{\langle w_{y_i} - w_k, x_i \rangle + b_{y_i} - b_k - \epsilon \|w_{y_i} -
       w_k\|_{q^*}}{\|W\|},

    with the largest margin by the exact separators. For networks homogeneous of degree L in their
    parameters :math:`\theta` it is the normalised margin :math:`\min_i \min_{k \ne y_i}
    (f_{y_i}(x_i) - f_k(x_i)) / \|\theta\|^L`, whose largest value nobody knows.

    Parameters
    ----------
    model : fitted classifier or torch.nn.Module
        A linear classifier, as in `implicit_bias_report`; or a network without biases: one of this
        library, or any torch.nn.Sequential for which
        `sklearn_robust.neural_network.modules.homogeneity` is known, trained by whatever optimiser.
        One linear layer counts as a linear classifier.
    X : array-like or tensor of shape (n_samples, n_features), or `(n_samples, *shape)` of a network
        Training data.
    y : array-like of shape (n_samples,)
        Labels; for a module the index of each class, from 0.
    norms : sequence of float, "spectral" or "nuclear"
        An exponent, in [1, inf], is that of the entries of W, or of all parameters, as one vector.
        For a network "spectral" is the largest singular value of any layer, "nuclear" the sum over
        the layers. For two classes both are the 2-norm of w.
    q, eps : float, default=2 and 0
        An l_q ball: margins are robust ones. Of a network only eps = 0 is known.
    largest : array-like of shape (n_norms,), optional
        Largest margins that are known: those of another report on the same data, so that they are
        computed once, or the largest margins of several networks.

    Returns
    -------
    MarginReport

    Raises
    ------
    NotSeparableError
        If a classifier is linear, and no linear classifier separates the data.
    ValueError
        If a module has biases or is not known to be homogeneous, a linear one has two outputs for
        two classes, or eps > 0 with a network; if a class of a linear classifier has no sample.

    References
    ----------
    Fan, Schmidt, Thrampoulidis, arXiv 2502.04664 (several classes, norms of the entries and of the
    singular values). arXiv 2602.16340 (momentum, Adam and Muon of homogeneous networks). Baek,
    Jung, Yun, arXiv 2510.26303 (Adam sample by sample).

    Examples
    --------
    >>> from sklearn_robust import MinNormRobustClassifier, make_teacher_classification
    >>> from sklearn_robust.inspection import margin_report
    >>> X, y = make_teacher_classification(20, 40, random_state=0)
    >>> model = MinNormRobustClassifier(p=1, eps=0, fit_intercept=False).fit(X, y)
    >>> ratios = margin_report(model, X, y, norms=(1, 2)).ratios
    >>> bool(ratios[0] > 0.999), bool(ratios[1] < 0.9)
    (True, True)
    """
    if isinstance(norms, (str, Real)) or not len(norms):
        raise ValueError(f"norms must be a sequence of norms, such as [2], got {norms!r}.")
    names = tuple(check_geometry(norm, "norms") for norm in norms)
    known = None if largest is None else np.asarray(largest, dtype=np.float64)
    if known is not None and known.shape != (len(names),):
        raise ValueError(
            f"largest must hold a margin for each of the {len(names)} norms, got shape "
            f"{known.shape}."
        )
    if known is not None and (known <= 0).any():
        raise ValueError(f"largest must hold positive margins, or nan, got {largest!r}.")
    module = _module(model)
    if module is None:
        view = linear_view(model, X, "model")
        return _of_linear(view, y, names, has_intercept(unwrapped(model)[1]), (q, eps), known)
    from sklearn_robust.attacks.target import off_device  # needs torch, as the next one does
    from sklearn_robust.neural_network import margins as networks

    degree, coef = networks.degree_of(module), networks.linear_coef(module)
    X, y = off_device(X), off_device(y)
    index = seen_class_index(y, model.classes_) if hasattr(model, "classes_") else y
    if coef is not None:
        rows = X if issparse(X) else np.reshape(X, (len(X), -1))
        view = LinearView(rows, coef, np.zeros(len(coef)), np.arange(max(len(coef), 2)))
        return _of_linear(view, index, names, False, (q, eps), known)
    if eps != 0:
        raise ValueError(
            f"eps must be 0 for a network, whose robust margins are not known, got {eps!r}. See "
            f"verification.certified_margins."
        )
    unknown = np.full(len(names), math.nan) if known is None else known
    margins = networks.normalised_margins(module, X, index, names)
    return MarginReport(names, margins, unknown, degree)


def _of_linear(
    view: LinearView,
    y: Any,
    norms: tuple[float | str, ...],
    fit_intercept: bool,
    ball: tuple[float, float],
    largest: np.ndarray | None,
) -> MarginReport:
    """The report on a linear classifier."""
    q, eps = ball
    index = training_index(view, y)
    X = check_array(view.X, accept_sparse=("csr",), dtype=np.float64)
    threat = view.ball(q, eps, None)
    margins = [smallest_margin(view, X, index, norm, threat, fit_intercept) for norm in norms]
    if largest is None:
        largest = np.array(
            [
                min_norm_separator(
                    X, index, p=norm, q=q, eps=eps, fit_intercept=fit_intercept
                ).margin
                for norm in norms
            ]
        )
    return MarginReport(norms, np.array(margins), largest, 1)


def _module(model: Any) -> Any:
    """The torch module that a model is or holds, or None."""
    torch = sys.modules.get("torch")
    module = getattr(model, "module_", model)
    return module if torch is not None and isinstance(module, torch.nn.Module) else None
