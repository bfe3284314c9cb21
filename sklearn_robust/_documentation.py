"""Where the documentation is, and what an estimator shows of itself in a notebook."""

from __future__ import annotations

from sklearn.utils import estimator_html_repr

from sklearn_robust._glance import at_a_glance

DOCS_URL = "https://sklearn-robust.readthedocs.io/en/latest"


def see(question: str) -> str:
    """The sentence that links a message to an answer on the page of questions.

    Parameters
    ----------
    question : str
        The anchor of a heading in docs/questions.md.

    Returns
    -------
    str
    """
    return f"See {DOCS_URL}/questions.html#{question}"


class DiagramMixin:
    """Makes scikit-learn's diagrams link to this library's pages, with what the fit has proven
    below; comes before BaseEstimator.
    """

    _doc_link_module = "sklearn_robust"
    _doc_link_template = f"{DOCS_URL}/generated/sklearn_robust.{{estimator_name}}.html"

    def _html_repr(self) -> str:
        return f"{estimator_html_repr(self)}{at_a_glance(self)}"
