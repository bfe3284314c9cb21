"""Where the documentation is, and the link to it in the HTML representation of every estimator."""

from __future__ import annotations

DOCS_URL = "https://sklearn-robust.readthedocs.io/en/latest"


class DocLinkMixin:
    """Makes scikit-learn's diagrams link to this library's pages; comes before BaseEstimator."""

    _doc_link_module = "sklearn_robust"
    _doc_link_template = f"{DOCS_URL}/generated/sklearn_robust.{{estimator_name}}.html"
