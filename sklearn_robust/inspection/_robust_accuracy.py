"""The picture of robust accuracy against the radius of the adversary.

The axis names the exponent where the threat is an l_q ball.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_consistent_length

from sklearn_robust._documentation import see
from sklearn_robust._parameters import check_exponent, check_sample_weight, refuse_lazy
from sklearn_robust.inspection._style import axes_for, style
from sklearn_robust.metrics import certified_radius
from sklearn_robust.metrics.linear_view import is_linear, transformed, unwrapped
from sklearn_robust.threats import LpBall, Threat, check_radius, is_ball, require_ball

_REACH = 0.95  # share of the radii that the default range of eps spans
_POINTS = 201  # in that range, for linear classifiers
_NETWORK_POINTS = 9  # for networks, where each takes an attack


@dataclass(frozen=True)
class RobustAccuracyCurve:
    """One line of a `RobustAccuracyDisplay`.

    Attributes
    ----------
    name : str
    eps : ndarray of shape (n_points,)
    accuracy : ndarray of shape (n_points,)
    low, high : ndarray of shape (n_points,) or None
        The band around it, if any.
    """

    name: str
    eps: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


class RobustAccuracyDisplay:
    """Robust accuracy against the radius eps of the adversary, for one or several classifiers.

    For linear classifiers each curve is exact. For networks of this library the line is the
    accuracy under an attack, the band reaches down to the certified one: the robust accuracy lies
    inside. Use
    `from_estimator`, `from_estimators`, `from_predictions` or `from_cv_results` to make one; all
    parameters are kept as attributes.

    Parameters
    ----------
    curves : sequence of RobustAccuracyCurve
    xlabel, ylabel : str
        Labels of the axes.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D, one for each curve
    bands_ : list of matplotlib artists or None, one for each curve

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_robust import RobustAccuracyDisplay, RobustLinearClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> models = {"logistic": LogisticRegression(), "robust": RobustLinearClassifier(eps=0.2)}
    >>> fitted = {
    ...     name: make_pipeline(StandardScaler(), model).fit(X, y)
    ...     for name, model in models.items()
    ... }
    >>> display = RobustAccuracyDisplay.from_estimators(fitted, X, y)
    >>> [line.get_label() for line in display.lines_]
    ['logistic', 'robust']
    """

    def __init__(
        self,
        curves: Sequence[RobustAccuracyCurve],
        *,
        xlabel: str = "eps",
        ylabel: str = "robust accuracy",
    ) -> None:
        self.curves = list(curves)
        self.xlabel, self.ylabel = xlabel, ylabel

    def __repr__(self) -> str:
        return f"RobustAccuracyDisplay({[curve.name for curve in self.curves]})"

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        eps: Any = None,
        q: float | None = None,
        sample_weight: Any = None,
        space: str = "model",
        threat: Threat | None = None,
        name: str | None = None,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Draw the curve of a fitted classifier.

        Parameters
        ----------
        estimator : fitted linear classifier or network, pipeline or search that ends in one
            Any that `robust_accuracy_score` takes.
        X : array-like or sparse array of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        eps : array-like of shape (n_points,), optional
            The radii. By default from 0 to where only a twentieth of the samples withstands; for
            networks to twice the training eps.
        q : float, optional
            Exponent of the norm that bounds the perturbation; by default that of the estimator's
            fit, or inf. Every feature moves alike: a `scale` of training is not part of this
            threat.
        sample_weight : array-like of shape (n_samples,), optional
        space : {"model", "input"}, default="model"
            Where eps lives in a pipeline, as in `robust_accuracy_score`.
        threat : Threat, optional
            For linear classifiers: an object in place of q. The radius eps is then the factor by
            which the set grows, of an `LpBall` of one radius that in its norm. By default that of
            the estimator's fit, where it is no l_q ball and q is not given.
        name : str, optional
            In the legend; by default the estimator's class.
        ax : matplotlib Axes, optional
            New ones by default.
        **options
            Options of `robust_bounds`, for networks.

        Returns
        -------
        RobustAccuracyDisplay
        """
        name = type(unwrapped(estimator)[1]).__name__ if name is None else name
        return cls.from_estimators(
            {name: estimator},
            X,
            y,
            eps=eps,
            q=q,
            sample_weight=sample_weight,
            space=space,
            threat=threat,
            ax=ax,
            **options,
        )

    @classmethod
    def from_estimators(
        cls,
        estimators: Mapping[str, Any],
        X: Any,
        y: Any,
        *,
        eps: Any = None,
        q: float | None = None,
        sample_weight: Any = None,
        space: str = "model",
        threat: Threat | None = None,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Draw the curves of several fitted classifiers on the same data, in one axes.

        Parameters
        ----------
        estimators : dict of str to fitted classifier
            The names are those in the legend.
        X, y, eps, q, sample_weight, space, threat, ax, **options
            As in `from_estimator`. By default q, or the threat, must be the same for all: name it
            otherwise.

        Returns
        -------
        RobustAccuracyDisplay
        """
        classifiers = {name: unwrapped(estimator)[1] for name, estimator in estimators.items()}
        threat = _threat_to_draw(classifiers, q, threat)
        refuse_lazy(X=X, y=y, sample_weight=sample_weight)
        weights = check_sample_weight(sample_weight, np.asarray(y))
        radii = {
            name: certified_radius(estimator, X, y, space=space, threat=threat)
            for name, estimator in estimators.items()
            if is_linear(classifiers[name])
        }
        if eps is None and not radii:
            sets = [classifier.threat_ for classifier in classifiers.values()]
            trained = [one.eps for one in sets if isinstance(one, LpBall) and not one.by_class]
            if not trained:
                raise ValueError(
                    "eps must be given: the networks were trained against no l_q ball of one "
                    "radius, which would say how far to draw."
                )
            grid = np.linspace(0, 2 * max(trained), _NETWORK_POINTS)
        else:
            grid = _radii_to_draw(eps, radii.values())
        curves = [
            RobustAccuracyCurve(name, grid, _survivors(radii[name], grid, weights))
            if name in radii
            else _bounds(name, estimator, X, y, grid, threat, sample_weight, space, options)
            for name, estimator in estimators.items()
        ]
        return cls(curves, xlabel=_axis_label(threat)).plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        radius: Any,
        *,
        eps: Any = None,
        sample_weight: Any = None,
        name: str = "classifier",
        ax: Any = None,
    ) -> Self:
        """Draw the curve of predictions whose radius is known.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n_samples,)
        radius : array-like of shape (n_samples,)
            The distance below which no perturbation changes the prediction, as
            `certified_radius(estimator, X)` returns: exact for linear classifiers. From proofs for
            networks it is a lower bound, and the curve with it.
        eps, sample_weight, ax
            As in `from_estimator`.
        name : str, default="classifier"

        Returns
        -------
        RobustAccuracyDisplay
        """
        refuse_lazy(y_true=y_true, y_pred=y_pred, radius=radius)
        y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
        radius = np.asarray(radius, dtype=float)
        check_consistent_length(y_true, y_pred, radius)
        signed = np.where(y_true == y_pred, radius, -math.inf)
        weights = check_sample_weight(sample_weight, signed)
        grid = _radii_to_draw(eps, [signed])
        return cls([RobustAccuracyCurve(name, grid, _survivors(signed, grid, weights))]).plot(ax)

    @classmethod
    def from_cv_results(cls, cv_results: Any, *, score: str = "score", ax: Any = None) -> Self:
        """Draw the mean robust test score of a search against the training eps, with a line for
        each p.

        Parameters
        ----------
        cv_results : dict, or fitted search with `cv_results_`
            With one parameter named eps or ending in __eps and, where p was searched, one named
            p_algo or p. Where further parameters were searched, the best mean score of each eps and
            p is drawn.
        score : str, default="score"
            Name of the scorer: "score", or a key of `scoring` where there were several.
        ax : matplotlib Axes, optional

        Returns
        -------
        RobustAccuracyDisplay
            The bands are one standard deviation over the folds. Those p that agree everywhere share
            a line.

        Raises
        ------
        ValueError
            If the search was not over eps.
        """
        results = getattr(cv_results, "cv_results_", cv_results)
        searched = _searched(results, ("eps",))
        if searched is None:
            raise ValueError(
                f"cv_results holds no parameter eps: it has "
                f"{[k for k in results if k.startswith('param_')]}."
            )
        radii = np.array(searched, dtype=float)
        mean = np.asarray(results[f"mean_test_{score}"])
        std = np.asarray(results[f"std_test_{score}"])
        curves = []
        geometries = _searched(results, ("p_algo", "p")) or [None] * len(mean)
        # numbers in order, then names
        for p in sorted(set(geometries), key=lambda p: (isinstance(p, str), p)):
            best: dict[float, int] = {}
            for i in [i for i, other in enumerate(geometries) if other == p]:
                if radii[i] not in best or mean[i] > mean[best[radii[i]]]:
                    best[radii[i]] = i
            grid = np.array(sorted(best))
            rows = [best[radius] for radius in grid]
            curves.append(
                RobustAccuracyCurve(
                    _curve_name(p), grid, mean[rows], mean[rows] - std[rows], mean[rows] + std[rows]
                )
            )
        return cls(
            _merged(curves), xlabel="training eps", ylabel="cross-validated robust accuracy"
        ).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            New ones by default.

        Returns
        -------
        RobustAccuracyDisplay
            Itself.
        """
        ax = axes_for(f"{type(self).__name__}.plot", ax)
        drawn = len(ax.lines)  # colours go on where those of another display in the same axes end
        self.lines_, self.bands_ = [], []
        for i, curve in enumerate(self.curves):
            line_style = style(drawn + i)
            marker = "o" if len(curve.eps) <= 2 * _NETWORK_POINTS else None
            self.lines_ += ax.plot(
                curve.eps,
                curve.accuracy,
                label=curve.name,
                marker=marker,
                markersize=4,
                **line_style,
            )
            band = None
            if curve.low is not None:
                high = curve.accuracy if curve.high is None else curve.high
                band = ax.fill_between(
                    curve.eps, curve.low, high, color=line_style["color"], alpha=0.15, linewidth=0
                )
            self.bands_.append(band)
        ax.set(xlabel=self.xlabel, ylabel=self.ylabel)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _threat_to_draw(classifiers: Mapping[str, Any], q: Any, threat: Threat | None) -> Threat:
    """The threat, or the ball of exponent q, or else what the classifiers were trained against."""
    if threat is not None and q is not None:
        raise ValueError(
            f"threat takes the place of q, got threat={threat!r} beside q={q!r}. Leave out one."
        )
    if threat is not None:
        return threat
    if q is None:
        trained = [c.threat_ for c in classifiers.values() if hasattr(c, "threat_")]
        foreign = [one for one in trained if not is_ball(one)]
        exponents = {one.q for one in trained if is_ball(one)}
        if len({id(one) for one in foreign}) + len(exponents) > 1:
            missing = "threat" if foreign else "q"
            raise ValueError(
                f"{missing} must be given: the estimators were trained against different ones, "
                f"{[*sorted(exponents), *(type(one).__name__ for one in foreign)]}."
            )
        if foreign:
            return foreign[0]
        q = exponents.pop() if exponents else math.inf
    return LpBall(check_exponent(q, "q"), 1.0)


def _axis_label(threat: Threat) -> str:
    """What the radius is: of a ball of one radius that in its norm, of other sets a factor."""
    if isinstance(threat, LpBall) and not threat.by_class:
        limits = "" if threat.clip is None else ", within limits"
        return f"eps, radius in the {threat.q:g}-norm{limits}"
    return f"eps, multiple of the {type(threat).__name__}"


def _radii_to_draw(eps: Any, radii: Any) -> np.ndarray:
    """The radii given, or some that reach to where few samples withstand."""
    if eps is not None:
        values = eps if np.iterable(eps) and not isinstance(eps, str) else [eps]
        return np.array([check_radius(value, "eps") for value in values])
    reach = [np.quantile(r[np.isfinite(r)], _REACH) for r in radii if np.isfinite(r).any()]
    return np.linspace(0, max([float(x) for x in reach if x > 0], default=1.0), _POINTS)


def _survivors(radii: np.ndarray, grid: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted share of samples whose radius is above each of a grid; at 0, of those that are
    predicted rightly.
    """
    return np.array(
        [
            np.average(radii > radius if radius > 0 else radii >= 0, weights=weights)
            for radius in grid
        ]
    )


def _bounds(
    name: str,
    estimator: Any,
    X: Any,
    y: Any,
    grid: np.ndarray,
    threat: Threat,
    sample_weight: Any,
    space: str,
    options: Any,
) -> RobustAccuracyCurve:
    """The accuracy of a network under an attack, and below it the certified one."""
    steps, network = unwrapped(estimator)
    if not hasattr(network, "robust_bounds"):
        raise TypeError(
            f"{type(network).__name__} is neither a linear classifier nor a network of this "
            "library: no bounds on its robust accuracy are known. Use from_predictions with radii "
            "of your own."
            f" {see('guide/pictures')}"
        )
    if steps and space != "model":
        raise ValueError(
            f"space={space!r} is for linear classifiers: a network is attacked behind the "
            f"pipeline, space='model'."
        )
    ball = require_ball(threat, "the attack on a network", "use an LpBall")
    seen = transformed(steps, X)
    options = {"q": ball.q, "scale": ball.scale} | options
    pairs = [
        network.robust_bounds(seen, y, sample_weight, eps=float(radius), **options)
        for radius in grid
    ]
    certified, attacked = np.transpose(pairs)
    return RobustAccuracyCurve(name, grid, attacked, low=certified)


def _merged(curves: list[RobustAccuracyCurve]) -> list[RobustAccuracyCurve]:
    """One curve, with all their names, for those that would lie on each other."""
    merged: list[RobustAccuracyCurve] = []
    for curve in curves:
        same = [i for i, other in enumerate(merged) if _same_line(curve, other)]
        if same:
            merged[same[0]] = replace(merged[same[0]], name=f"{merged[same[0]].name}, {curve.name}")
        else:
            merged.append(curve)
    return merged


def _same_line(one: RobustAccuracyCurve, other: RobustAccuracyCurve) -> bool:
    parts = ("eps", "accuracy", "low", "high")
    return all(
        np.array_equal(getattr(one, part), getattr(other, part), equal_nan=True) for part in parts
    )


def _searched(results: Mapping[str, Any], names: tuple[str, ...]) -> list[Any] | None:
    """The values of the parameter of this name, of the estimator or of a step of a pipeline."""
    for key, values in results.items():
        if key.startswith("param_") and key.removeprefix("param_").split("__")[-1] in names:
            return list(values)
    return None


def _curve_name(p: float | str | None) -> str:
    """The name of the curve of a geometry; None where only eps was searched."""
    if p is None:
        return "mean over the folds"
    return f"p = {p}" if isinstance(p, str) else f"p = {float(p):g}"
