"""The picture of separators of two-dimensional data, and of the threat around each sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_X_y

from sklearn_robust._parameters import check_exponent, refuse_lazy
from sklearn_robust.inspection._style import axes_for, style
from sklearn_robust.metrics.linear_view import linear_view, unwrapped
from sklearn_robust.separators import min_norm_separator
from sklearn_robust.threats import (
    Box,
    Intersection,
    LpBall,
    Threat,
    at,
    bound_threat,
    check_radius,
    is_ball,
    of_class,
)

# corners of the polygon that stands for a set; a multiple of 8 holds the corners of every ball
_CORNERS = 256
_CLASS_MARKERS = "os^vDPX"


class SeparatorDisplay:
    """Two-dimensional data, the threat around each sample, and lines that separate the classes.

    The boundary of several classes is where two share the largest score. A boundary that touches
    none of these sets classifies every sample robustly. Use `from_data` for the exact separators of
    several p, `from_estimator` or `from_estimators` for fitted classifiers; all parameters are kept
    as attributes.

    Parameters
    ----------
    X : ndarray of shape (n_samples, 2)
    y : ndarray of shape (n_samples,)
    q : float, default=inf
    eps : float, default=0
        The balls; 0 draws none.
    coef : ndarray of shape (n_lines, 2), or (n_lines, K, 2) of K > 2 classes
    intercept : ndarray of shape (n_lines,) or (n_lines, K)
    names : sequence of str
        Names of the lines.
    feature_names : sequence of two str, default=("$x_1$", "$x_2$")
    threat : Threat, optional
        The set around each sample, in place of the balls. Of a set that is not convex the hull is
        drawn, which is all that a line sees; one without bound ends outside of the picture.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib AxLine, or LineCollection of K > 2 classes
        Where <w, x> + b = 0, or where two classes share the largest score.
    points_ : list of matplotlib PathCollection
    balls_ : list of matplotlib PolyCollection, or None
        The sets of each class; None where nothing moves, or where `plot` drew none.

    References
    ----------
    Tsilivis, Frank, Srebro, Kempe, "The Price of Implicit Bias in Adversarially Robust
    Generalization", NeurIPS 2024, Figure 1.

    Examples
    --------
    >>> import matplotlib
    >>> import numpy as np
    >>> matplotlib.use("agg")
    >>> from sklearn_robust import SeparatorDisplay
    >>> X, y = np.array([[3.0, 1.0], [1.0, 2.0], [-2.0, -1.0]]), np.array([1, 1, 0])
    >>> display = SeparatorDisplay.from_data(X, y, q=np.inf, eps=0.5)
    >>> [line.get_label() for line in display.lines_]
    ['p = 1', 'p = 2', 'p = inf']
    """

    def __init__(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        q: float = math.inf,
        eps: float = 0.0,
        coef: np.ndarray,
        intercept: np.ndarray,
        names: Sequence[str],
        feature_names: Sequence[str] = ("$x_1$", "$x_2$"),
        threat: Threat | None = None,
    ) -> None:
        self.X, self.y = X, y
        self.q, self.eps = q, eps
        self.coef, self.intercept = coef, intercept
        self.names = list(names)
        self.feature_names = feature_names
        self.threat = threat

    def __repr__(self) -> str:
        return f"SeparatorDisplay({self.names})"

    @classmethod
    def from_data(
        cls,
        X: Any,
        y: Any,
        *,
        q: float | None = None,
        eps: float | None = None,
        p: Sequence[float] = (1, 2, math.inf),
        fit_intercept: bool = True,
        threat: Threat | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw data and their exact robust separators of least p-norm.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2)
        y : array-like of shape (n_samples,)
        q : float, optional
            Exponent of the norm that bounds the perturbation, in [1, inf]; inf by default.
        eps : float
            Its radius; must be given, unless there is a threat.
        p : sequence of float, default=(1, 2, inf)
            A line for each.
        fit_intercept : bool, default=True
            Otherwise the lines pass through the origin.
        threat : Threat, optional
            The set of perturbations as an object, in place of q and eps.
        ax : matplotlib Axes, optional
            New ones by default.

        Returns
        -------
        SeparatorDisplay

        Raises
        ------
        NotSeparableError
            If no lines separate the sets.
        """
        names, columns = _feature_names(X), getattr(X, "columns", None)
        X, y = _two_dimensional(X, y)
        if threat is None:
            q, eps = math.inf if q is None else q, _given_radius(eps)
            given: dict[str, Any] = {"q": check_exponent(q, "q"), "eps": check_radius(eps, "eps")}
        else:
            _refuse_beside(threat, q, eps)
            given = {"threat": bound_threat(threat, 2, columns, list(np.unique(y)))}
        found = [min_norm_separator(X, y, p=e, fit_intercept=fit_intercept, **given) for e in p]
        return cls(
            X,
            y,
            coef=np.array([separator.coef for separator in found]),
            intercept=np.array([separator.intercept for separator in found]),
            names=[f"p = {e:g}" for e in p],
            feature_names=names,
            **given,
        ).plot(ax)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        q: float | None = None,
        eps: float | None = None,
        threat: Threat | None = None,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw data and the decision boundary of a fitted linear classifier.

        Parameters
        ----------
        estimator : fitted linear classifier, alone or at the end of a pipeline
            The data are drawn as it sees them, behind the transformers.
        X : array-like of shape (n_samples, 2)
        y : array-like of shape (n_samples,)
        q, eps : float, optional
            The balls; by default those of the estimator's `threat_`, or none where it has none.
            They have the scale of that `threat_`. Of a `threat_` that is no l_q ball the set is
            drawn.
        threat : Threat, optional
            The set to draw around each sample, in place of q and eps.
        name : str, optional
            In the legend; by default the estimator's class.
        ax : matplotlib Axes, optional

        Returns
        -------
        SeparatorDisplay
        """
        name = type(unwrapped(estimator)[1]).__name__ if name is None else name
        return cls.from_estimators({name: estimator}, X, y, q=q, eps=eps, threat=threat, ax=ax)

    @classmethod
    def from_estimators(
        cls,
        estimators: Mapping[str, Any],
        X: Any,
        y: Any,
        *,
        q: float | None = None,
        eps: float | None = None,
        threat: Threat | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw data and the decision boundaries of several fitted linear classifiers.

        Parameters
        ----------
        estimators : dict of str to fitted linear classifier
            The names are those in the legend.
        X, y, q, eps, threat, ax
            As in `from_estimator`; the threat, and what the data look like behind a pipeline, are
            those of the first.

        Returns
        -------
        SeparatorDisplay
        """
        views = [linear_view(estimator, X, "model") for estimator in estimators.values()]
        seen, y = _two_dimensional(views[0].X, y)
        n_classes = len(np.unique(y))
        shape = (1 if n_classes == 2 else n_classes, 2)
        for name, view in zip(estimators, views, strict=True):
            if view.coef.shape != shape:
                raise ValueError(
                    f"The classifier {name!r} has coefficients of shape {view.coef.shape}: this "
                    f"picture is of {n_classes} classes and two features, shape {shape}. Fit it on "
                    "these data."
                )
        if threat is None:
            given = _trained(unwrapped(next(iter(estimators.values())))[1], q, eps)
        else:
            _refuse_beside(threat, q, eps)
            given = {"threat": views[0].bound(threat)}
        coef = np.stack([view.coef for view in views])
        intercept = np.stack([view.intercept for view in views])
        return cls(
            seen,
            y,
            coef=coef[:, 0] if n_classes == 2 else coef,
            intercept=intercept[:, 0] if n_classes == 2 else intercept,
            names=list(estimators),
            feature_names=_feature_names(X),
            **given,
        ).plot(ax)

    def plot(self, ax: Any = None, *, balls: bool = True) -> Self:
        """Draw data, sets and lines.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            New ones by default.
        balls : bool, default=True

        Returns
        -------
        SeparatorDisplay
            Itself.
        """
        own_axes = ax is None
        ax = axes_for(f"{type(self).__name__}.plot", ax)
        from matplotlib.collections import PolyCollection

        outlines = {label: self._outlines(label) for label in np.unique(self.y)}
        span = np.ptp(self.X, axis=0).max()
        largest = max(np.abs(outline).max() for outline in outlines.values())
        reach = 1.5 * min(largest, span) + 0.05 * span
        low, high = self.X.min(axis=0) - reach, self.X.max(axis=0) + reach
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        ax.set(xlabel=self.feature_names[0], ylabel=self.feature_names[1])
        self.points_ = []
        drawn = []
        for i, (label, outline) in enumerate(outlines.items()):
            color, marker = style(i)["color"], _CLASS_MARKERS[i % len(_CLASS_MARKERS)]
            points = self.X[self.y == label]
            self.points_.append(
                ax.scatter(
                    *points.T, color=color, marker=marker, s=18, zorder=3, label=f"class {label}"
                )
            )
            if balls and largest > 0:
                sets = list(points[:, None] + outline)
                drawn.append(
                    PolyCollection(sets, facecolor=color, edgecolor=color, alpha=0.25, zorder=2)
                )
                ax.add_collection(drawn[-1])
        self.balls_ = drawn or None
        self.lines_ = [self._draw_line(ax, i, low, high) for i in range(len(self.coef))]
        if own_axes:
            # beside the data, not on them
            ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
        else:
            ax.legend(loc="best", fontsize="small")  # beside these axes there may be others
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_line(self, ax: Any, i: int, low: np.ndarray, high: np.ndarray) -> Any:
        """The boundary of the i-th classifier, in a picture between two corners."""
        from matplotlib.collections import LineCollection

        W, b = self.coef[i], self.intercept[i]
        middle, reach = 0.5 * (low + high), float(np.linalg.norm(high - low))
        # the first colours are those of the classes
        look = style(i, first_color=len(self.points_))
        if not np.any(W if W.ndim == 1 else W - W[0]):
            raise ValueError(
                f"The classifier {self.names[i]!r} has no boundary to draw: its coefficients are "
                f"{'zero' if W.ndim == 1 else 'those of one class for all'}."
            )
        if W.ndim == 1:
            start, along = _line(W, b, middle)
            return ax.axline(start, start + along, label=self.names[i], **look)
        segments = _shared_boundaries(W, b, middle, reach)
        return ax.add_collection(LineCollection(list(segments), label=self.names[i], **look))

    def _outlines(self, label: Any) -> np.ndarray:
        """The corners of the polygon of each sample of a class, of shape (n, n_corners, 2): the
        points at which its set supports half-planes, in the order of their normals.
        """
        points = self.X[self.y == label]
        threat = LpBall(self.q, self.eps) if self.threat is None else self.threat
        threat = of_class(threat, label)
        normals = _circle()[:, None]
        corners = at(threat, points).worst(normals)
        if not np.isfinite(corners).all():
            far = np.full(2, 10 * np.ptp(self.X, axis=0).max())  # outside of the picture
            corners = at(Intersection([threat, Box(-far, far)]), points).worst(normals)
        return np.broadcast_to(corners, (_CORNERS, *points.shape)).swapaxes(0, 1)


def _trained(classifier: Any, q: float | None, eps: float | None) -> dict[str, Any]:
    """The balls of a picture: those of a classifier's fit, with another exponent or radius where
    one is given; the set where the fit was against none.
    """
    trained = getattr(classifier, "threat_", LpBall(math.inf, 0.0))
    if not is_ball(trained) and q is None and eps is None:
        return {"threat": trained}
    ball = trained if is_ball(trained) else LpBall(math.inf, 0.0)
    q = check_exponent(ball.q if q is None else q, "q")
    eps = check_radius(ball.eps if eps is None else eps, "eps")
    return {"q": q, "eps": eps, "threat": LpBall(q, eps, ball.scale)}


def _given_radius(eps: float | None) -> float:
    if eps is None:
        raise ValueError("eps, the radius of the balls, or threat must be given, got neither.")
    return eps


def _refuse_beside(threat: Threat, q: float | None, eps: float | None) -> None:
    """Refuse q or eps beside a threat."""
    if q is not None or eps is not None:
        raise ValueError(
            f"threat takes the place of q and eps, got threat={threat!r} beside q={q!r} and "
            f"eps={eps!r}. Leave out one or the others."
        )


def _line(w: np.ndarray, b: float, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The point of the line <w, x> + b = 0 that is nearest to the middle, and its direction."""
    start: np.ndarray = middle - (middle @ w + b) / (w @ w) * w
    return start, np.array([-w[1], w[0]]) / np.linalg.norm(w)


def _shared_boundaries(
    coef: np.ndarray, intercept: np.ndarray, middle: np.ndarray, reach: float
) -> np.ndarray:
    """Where two of K classes share the largest score, up to a distance from the middle: segments
    (m, 2, 2).
    """
    segments = []
    for low, high in combinations(range(len(coef)), 2):
        over, lead = coef[low] - coef, intercept[low] - intercept
        if not over[high].any():
            continue
        start, along = _line(over[high], lead[high], middle)
        others = np.delete(np.arange(len(coef)), [low, high])
        # the lead over another class at start + t along is at_start + slope t
        at_start, slope = over[others] @ start + lead[others], over[others] @ along
        ends = -at_start / np.where(slope == 0, 1.0, slope)
        first = max([-reach, *ends[slope > 0]])
        last = min([reach, *ends[slope < 0]])
        if first < last and not np.any((slope == 0) & (at_start < 0)):
            segments.append([start + first * along, start + last * along])
    return np.array(segments).reshape(-1, 2, 2)


def _circle() -> np.ndarray:
    """Points on the unit circle, in order."""
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _two_dimensional(X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    refuse_lazy(X=X, y=y)
    X, y = check_X_y(X, y, dtype=np.float64)
    n_classes = len(np.unique(y))
    if X.shape[1] != 2 or n_classes < 2:
        raise ValueError(
            f"The picture is of two features and at least two classes, got {X.shape[1]} and "
            f"{n_classes}. Draw two features at a time: X[:, [0, 1]]."
        )
    return X, y


def _feature_names(X: Any) -> Sequence[str]:
    columns = getattr(X, "columns", None)
    return (
        ("$x_1$", "$x_2$")
        if columns is None or len(columns) != 2
        else [str(name) for name in columns]
    )
