"""Where the documentation is, and the links of messages to its pages."""

from __future__ import annotations

DOCS_URL = "https://sklearn-robust.readthedocs.io/en/latest"


def see(page: str, heading: str = "") -> str:
    """The last sentence of a message: the page that explains it.

    Parameters
    ----------
    page : str
        A page of docs/, without its suffix.
    heading : str
        The anchor of a heading on it.

    Returns
    -------
    str

    Examples
    --------
    >>> from sklearn_robust._documentation import see
    >>> see("guide/metrics")
    'See https://sklearn-robust.readthedocs.io/en/latest/guide/metrics.html'
    """
    return f"See {DOCS_URL}/{page}.html{'#' * bool(heading)}{heading}"
