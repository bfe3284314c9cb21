"""What a fit shows of itself in a notebook: its diagram, and in a line what it has proven."""

from __future__ import annotations

import math
from typing import Any

from sklearn.utils import estimator_html_repr

from sklearn_robust._documentation import DOCS_URL

_BAR = (
    '<div style="max-width:24em;height:.5em;background:#8886;border-radius:.25em">'
    '<div style="width:{:.1%};height:100%;background:#2a7ab0;border-radius:.25em"></div></div>'
)


class DiagramMixin:
    """Makes scikit-learn's diagrams link to this library's pages, with what the fit has proven
    below; comes before BaseEstimator.
    """

    _doc_link_module = "sklearn_robust"
    _doc_link_template = f"{DOCS_URL}/generated/sklearn_robust.{{estimator_name}}.html"

    def _html_repr(self) -> str:
        return f"{estimator_html_repr(self)}{at_a_glance(self)}"


def at_a_glance(fit: Any) -> str:
    """What a fitted linear classifier has proven, as HTML.

    Parameters
    ----------
    fit : estimator
        With `coef_`, `separable_`, `margin_`, `margin_bound_` and `dual_gap_`, else the text is
        empty.

    Returns
    -------
    str

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> from sklearn_robust._glance import at_a_glance
    >>> fit = SimpleNamespace(
    ...     coef_=np.eye(1), separable_=False, margin_=-1.0, margin_bound_=0.0, dual_gap_=1e-7
    ... )
    >>> at_a_glance(fit)
    '<p>Not robustly separable, proven. Robust risk within a relative 1e-07 of the least.</p>'
    """
    if not hasattr(fit, "separable_"):
        return ""
    if abs(fit.coef_).max() == 0:
        return "<p>Constant: every coefficient is 0, the same class is predicted everywhere.</p>"
    if fit.separable_ is False:
        risk = f"Robust risk within a relative {fit.dual_gap_:.1g} of the least."
        if fit.dual_gap_ == math.inf:
            risk = "No bound on the least robust risk is known."
        return f"<p>Not robustly separable, proven. {risk}</p>"
    if fit.separable_ is None:
        return (
            "<p>Whether the data are robustly separable is not decided; certified gap "
            f"{fit.dual_gap_:.2g}.</p>"
        )
    return f"<p>Robustly separable, proven.</p>{margin_bar(fit.margin_, fit.margin_bound_)}"


def margin_bar(margin: float, bound: float) -> str:
    """A margin as a share of the bound on every margin, as HTML.

    Parameters
    ----------
    margin, bound : float

    Returns
    -------
    str
    """
    if bound == math.inf:  # then so is the margin, or no bound is known
        share = 1.0 if margin == math.inf else 0.0
    else:
        share = min(max(margin / bound, 0.0), 1.0) if bound > 0 else 0.0
    return (
        f"<p>Margin {margin:.4g}; no predictor has more than {bound:.4g}.</p>{_BAR.format(share)}"
    )
