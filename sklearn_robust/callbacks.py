"""Callbacks of scikit-learn in every fit, and one of our own. They are experimental there: only
this module touches them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sklearn_robust._documentation import see
from sklearn_robust._parameters import check_choice, check_number

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn 1.8 has no callbacks
    from sklearn_robust._no_callbacks import CallbackSupportMixin, with_callbacks

__all__ = ["CallbackSupportMixin", "FitCallbacks", "PathRecorder", "with_callbacks"]

_STEP = "iteration"  # the task of a solver at which its figures are reported


class FitCallbacks:
    """Tells an estimator's callbacks where its fit is; a method decorated by `with_callbacks` makes
    one and walks through it.

    The tasks of a network's fit are its epochs. Those of a linear fit are its solvers, whose tasks
    are iterations.

    Parameters
    ----------
    estimator : CallbackSupportMixin
    X, y, sample_weight : array-like
        The data that were given to fit.
    max_subtasks : int, optional
        How many tasks the fit has at most, where that is known.
    """

    def __init__(
        self, estimator: Any, X: Any, y: Any, sample_weight: Any, max_subtasks: int | None = None
    ) -> None:
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._common = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._fit = estimator._init_callback_context(max_subtasks=max_subtasks)
        self._fit.call_on_fit_task_begin(**self._common)
        self._callbacks = getattr(estimator, "_skl_callbacks", ())

    @property
    def monitored(self) -> bool:
        """Whether there are callbacks."""
        return bool(self._callbacks)

    @property
    def every(self) -> int:
        """Iterations of a solver between reports that a `PathRecorder` asks for; 0 where none
        does.
        """
        return min(
            (
                c.every
                for c in self._callbacks
                if isinstance(c, PathRecorder) and c.every is not None
            ),
            default=0,
        )

    def begin(self, name: str) -> Any:
        """A task of the fit without tasks of its own, such as an epoch."""
        return self._fit.subcontext(task_name=name).call_on_fit_task_begin(**self._common)

    def begin_solver(self, name: str) -> Any:
        """A task of the fit that reports."""
        return self._fit.subcontext(task_name=name, max_subtasks=None).call_on_fit_task_begin(
            **self._common
        )

    def report(self, solver: Any, fitted: Callable[[], dict[str, Any]]) -> bool:
        """A task of the solver, begun and ended: whether a callback asks to stop; `fitted()` are
        the attributes so far.
        """
        step = solver.subcontext(task_name=_STEP).call_on_fit_task_begin(**self._common)
        return self._end(step, fitted)

    def end(self, task: Any, fitted: dict[str, Any] | None = None) -> bool:
        """End a task: whether a callback asks to stop; `fitted` are attributes with which the
        estimator can predict.
        """
        return self._end(task, fitted)

    def end_fit(self, *, predicts: bool = True) -> None:
        """End the fit, after which the estimator predicts, or does not."""
        self._end(self._fit, {} if predicts else None)

    def _end(self, task: Any, fitted: Any) -> bool:
        return task.call_on_fit_task_end(**self._common, reconstruction_attributes=fitted)


class PathRecorder:
    """A callback that records the path of a linear fit: loss, margin, bound and gap at chosen
    iterations.

    Set it on the classifier, `classifier.set_callbacks(recorder)`, alone or as the last step of a
    pipeline. It keeps the last run of an iterative solver of the last fit in this process.

    Parameters
    ----------
    every : int or None, default=None
        Iterations between records. None leaves it to the solver, which certifies where it is every
        10 iterations at first and later every tenth of the iterations so far: that costs nothing,
        and suits a logarithmic axis. A record between two certificates has the bound that is known
        by then. The last iteration is recorded in any case.
    store_coef : bool, default=False
        Whether to keep coefficients and intercepts, which `ConvergenceDisplay` needs for the cosine
        to the exact separator.

    Attributes
    ----------
    solver_ : str or None
        The solver recorded: "steepest_descent", "accelerated", "diagonal_descent" or "robust_risk",
        the minimiser of the risk of data that are not robustly separable. None where none has
        iterated.
    history_ : dict of str to ndarray
        "iteration", and "log_risk", "margin", "margin_bound" and "gap" as in the attributes
        `log_risk_`, `margin_`, `margin_bound_` and `dual_gap_` of a fitted estimator, so that the
        gap is that of the risk for "robust_risk". Of shape (n_records,). The gap is inf as long as
        nothing is certified. A figure that a solver does not have is nan: "accelerated" seeks a
        direction, which has no loss. On request "coef" of shape (n_records, 1, n_features) for two
        and (n_records, n_classes, n_features) for several classes, and "intercept" without the last
        axis.

    See Also
    --------
    sklearn_robust.inspection.ConvergenceDisplay : The picture of a record.

    Notes
    -----
    A record changes no digit of the fit.

    Built on `sklearn.callback`, which is experimental in scikit-learn 1.9. For networks `history_`
    of the estimator is the record. A search with several processes fits copies of the recorder,
    whose records stay there.

    Examples
    --------
    >>> from sklearn_robust import PathRecorder, RobustLinearClassifier, make_teacher_classification
    >>> X, y = make_teacher_classification(40, 80, random_state=0)
    >>> recorder = PathRecorder(every=50)
    >>> model = RobustLinearClassifier(solver="steepest_descent", eps=0.1, loss_tol=0, tol=1e-2)
    >>> model = model.set_callbacks(recorder).fit(X, y)
    >>> recorder.solver_
    'steepest_descent'
    >>> gap = recorder.history_["gap"]
    >>> bool(abs(gap[-1] - model.dual_gap_) < 1e-9), bool(gap[-1] < gap[0])
    (True, True)
    """

    def __init__(self, *, every: int | None = None, store_coef: bool = False) -> None:
        if every is not None:
            check_number(every, "every", low=1, integer=True)
        check_choice(store_coef, "store_coef", (True, False))
        self.every = every
        self.store_coef = store_coef
        self._begin(None)

    def __repr__(self) -> str:
        held = f": {len(self._rows)} records of {self.solver_}" if self._rows else ""
        return f"PathRecorder(every={self.every}, store_coef={self.store_coef}{held})"

    def _begin(self, solver: str | None) -> None:
        self.solver_ = solver
        self._rows: list[dict[str, Any]] = []

    @property
    def history_(self) -> dict[str, np.ndarray]:
        """The record, an array for each figure."""
        return (
            {name: np.array([row[name] for row in self._rows]) for name in self._rows[0]}
            if self._rows
            else {}
        )

    def setup(self, estimator: Any, context: Any) -> None:
        """Begin anew; part of scikit-learn's protocol, like the methods below."""
        if not getattr(estimator, "_reports_its_path", False):
            raise TypeError(
                f"PathRecorder records the fits of linear classifiers of this library, got "
                f"{type(estimator).__name__}. For networks use their history_, for classifiers in "
                "a pipeline set it on the last step."
                f" {see('guide/callbacks')}"
            )
        self._begin(None)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Leave the record as it is."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Begin the record of a solver."""
        if context.max_subtasks is None and context.task_name != "fit":
            self._begin(context.task_name)

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, fitted_estimator: Any = None
    ) -> None:
        """Record an iteration."""
        if context.task_name != _STEP:
            return
        row = {"iteration": fitted_estimator.n_iter_}
        for name in ("log_risk", "margin", "margin_bound"):
            row[name] = getattr(fitted_estimator, f"{name}_")
        row["gap"] = fitted_estimator.dual_gap_
        if self.store_coef:
            row["coef"] = fitted_estimator.coef_
            row["intercept"] = fitted_estimator.intercept_
        if self._rows and np.array_equal(self._rows[-1]["iteration"], row["iteration"]):
            self._rows.pop()  # the end of a solver may come with a sharper certificate
        self._rows.append(row)
