"""The picture of a recorded fit on its way to the limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils._optional_dependencies import check_matplotlib_support

from sklearn_robust._documentation import see
from sklearn_robust.callbacks import PathRecorder
from sklearn_robust.inspection._implicit_bias import implicit_bias_report
from sklearn_robust.inspection._style import style

_PANELS = {
    "gap": ("certified gap", "log"),
    "cosine": ("cosine to the exact separator", "linear"),
    "log_risk": ("log of the mean robust loss", "linear"),
}


@dataclass(frozen=True)
class ConvergenceCurve:
    """One fit in a `ConvergenceDisplay`.

    Attributes
    ----------
    name : str
    iteration : ndarray of shape (n_records,)
    gap, cosine, log_risk : ndarray of shape (n_records,) or None
        nan or inf where there is nothing to draw, None where nothing is known.
    """

    name: str
    iteration: np.ndarray
    gap: np.ndarray | None = None
    cosine: np.ndarray | None = None
    log_risk: np.ndarray | None = None


class ConvergenceDisplay:
    """Certified gap, cosine to the exact separator and loss of recorded fits against the iteration,
    a panel for each.

    Use `from_estimator` or `from_estimators`, which fit and record, or `from_recorders`; all
    parameters are kept as attributes.

    Parameters
    ----------
    curves : sequence of ConvergenceCurve

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure
    panels_ : list of str
        What each axes shows, of "gap", "cosine" and "log_risk": what is known of any curve.
    lines_ : dict of str to list of matplotlib Line2D
        For each panel a line for each curve of which the panel's figure is known.

    See Also
    --------
    sklearn_robust.PathRecorder : Records a fit.
    sklearn_robust.implicit_bias_report : The end of the path in numbers.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> from sklearn_robust import ConvergenceDisplay, RobustLinearClassifier
    >>> from sklearn_robust import make_teacher_classification
    >>> X, y = make_teacher_classification(40, 80, random_state=0)
    >>> model = RobustLinearClassifier(p_algo=2, eps=0.1, loss_tol=0)
    >>> display = ConvergenceDisplay.from_estimator(model, X, y)
    >>> display.panels_
    ['gap', 'cosine', 'log_risk']
    """

    def __init__(self, curves: Sequence[ConvergenceCurve]) -> None:
        self.curves = list(curves)

    def __repr__(self) -> str:
        return f"ConvergenceDisplay({[curve.name for curve in self.curves]})"

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, name: str | None = None, axes: Any = None
    ) -> Self:
        """Fit a copy of a linear classifier of this library, and draw its path.

        Parameters
        ----------
        estimator : RobustLinearClassifier or RobustDiagonalNet
            Left as it is.
        X : array-like or sparse array of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        name : str, optional
            In the legend; by default the estimator's class.
        axes : sequence of matplotlib Axes, optional
            One for each panel.

        Returns
        -------
        ConvergenceDisplay
            With the cosine to the exact separator, `min_norm_separator`, where the data are
            robustly separable.

        Raises
        ------
        ValueError
            If the fit does not iterate, as that with solver="exact".
        """
        return cls.from_estimators(
            {type(estimator).__name__ if name is None else name: estimator}, X, y, axes=axes
        )

    @classmethod
    def from_estimators(
        cls, estimators: Mapping[str, Any], X: Any, y: Any, *, axes: Any = None
    ) -> Self:
        """Fit copies of several linear classifiers of this library to the same data, and draw their
        paths.

        Parameters
        ----------
        estimators : dict of str to RobustLinearClassifier or RobustDiagonalNet
            Left as they are. The names are those in the legend.
        X, y, axes
            As in `from_estimator`.

        Returns
        -------
        ConvergenceDisplay
            Each with the cosine to its own exact separator.

        Raises
        ------
        ValueError
            If one of the fits does not iterate, as that with solver="exact".
        """
        recorders, separators = {}, {}
        for name, estimator in estimators.items():
            recorders[name] = PathRecorder(store_coef=True)
            fitted = clone(estimator).set_callbacks(recorders[name]).fit(X, y)
            separators[name] = implicit_bias_report(fitted, X, y).separator
        return cls.from_recorders(recorders, separators=separators, axes=axes)

    @classmethod
    def from_recorders(
        cls,
        recorders: Mapping[str, PathRecorder],
        *,
        separators: Mapping[str, Any] | None = None,
        axes: Any = None,
    ) -> Self:
        """Draw recorded fits.

        Parameters
        ----------
        recorders : dict of str to PathRecorder
            After their fits. The names are those in the legend.
        separators : dict of str to Separator, optional
            The exact separator of some of the fits, by the same names, None where there is none.
            Their recorders must have `store_coef`.
        axes : sequence of matplotlib Axes, optional
            One for each panel.

        Returns
        -------
        ConvergenceDisplay
        """
        separators = separators or {}
        return cls(
            [_curve(name, recorder, separators.get(name)) for name, recorder in recorders.items()]
        ).plot(axes)

    def plot(self, axes: Any = None) -> Self:
        """Draw the panels.

        Parameters
        ----------
        axes : sequence of matplotlib Axes, optional
            One for each panel of `panels_`; a new figure by default.

        Returns
        -------
        ConvergenceDisplay
            Itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        self.panels_ = [
            panel
            for panel in _PANELS
            if any(getattr(curve, panel) is not None for curve in self.curves)
        ]
        if axes is None:
            import matplotlib.pyplot as plt

            size = (4 * len(self.panels_), 3.5)
            _, axes = plt.subplots(
                1, len(self.panels_), figsize=size, layout="constrained", squeeze=False
            )
        self.axes_ = np.atleast_1d(axes).ravel()
        if len(self.axes_) != len(self.panels_):
            raise ValueError(
                f"axes must hold one axes for each panel of {self.panels_}, got {len(self.axes_)}."
            )
        self.lines_: dict[str, list[Any]] = {}
        for ax, panel in zip(self.axes_, self.panels_, strict=True):
            label, scale = _PANELS[panel]
            self.lines_[panel] = []
            for i, curve in enumerate(self.curves):
                values = getattr(curve, panel)
                if values is not None:
                    self.lines_[panel] += ax.plot(
                        curve.iteration, values, label=curve.name, **style(i)
                    )
            ax.set(xlabel="iteration", ylabel=label, xscale="log", yscale=scale)
        self.axes_[0].legend()
        self.figure_ = self.axes_[0].figure
        return self


def _curve(name: str, recorder: PathRecorder, separator: Any) -> ConvergenceCurve:
    """The curve of a recorded fit."""
    history = recorder.history_
    if not history:
        raise ValueError(
            f"The recorder {name!r} holds no path: it saw no fit, or one without iterations, such "
            f"as solver='exact'. Use solver='steepest_descent', and fit. {see('guide/callbacks')}"
        )
    gap = history["gap"]
    return ConvergenceCurve(
        name,
        history["iteration"],
        # a gap of zero up to rounding has no logarithm
        gap=_known(np.where(gap > 0, gap, math.nan)),
        cosine=None if separator is None else _cosine(name, history, separator.coef.ravel()),
        log_risk=_known(history["log_risk"]),
    )


def _known(values: np.ndarray) -> np.ndarray | None:
    return values if np.isfinite(values).any() else None


def _cosine(name: str, history: dict[str, np.ndarray], exact: np.ndarray) -> np.ndarray:
    """The cosines of the recorded coefficients to the exact ones, both as one vector."""
    if "coef" not in history:
        raise ValueError(
            f"The recorder {name!r} holds no coefficients to compare: use "
            f"PathRecorder(store_coef=True)."
        )
    coef = history["coef"].reshape(len(history["coef"]), -1).astype(float)
    with np.errstate(invalid="ignore"):
        return coef @ exact / (np.linalg.norm(coef, axis=1) * np.linalg.norm(exact))
