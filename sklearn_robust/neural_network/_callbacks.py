"""scikit-learn's callbacks in the fits of networks. They are experimental there: this is the only module that touches them."""

from __future__ import annotations

from typing import Any

from sklearn.callback import CallbackSupportMixin, with_callbacks

__all__ = ["CallbackSupportMixin", "EpochCallbacks", "with_callbacks"]


class EpochCallbacks:
    """Tells an estimator's callbacks where its fit is; a method decorated by `with_callbacks` makes one and walks through it.

    Parameters
    ----------
    estimator : CallbackSupportMixin
    X, y : array-like
        The data that were given to fit.
    max_epochs : int
    """

    def __init__(self, estimator: Any, X: Any, y: Any, max_epochs: int) -> None:
        self._common = {"estimator": estimator, "X": X, "y": y}
        self._fit = estimator._init_callback_context(max_subtasks=max_epochs)
        self._fit.call_on_fit_task_begin(**self._common)

    def begin_epoch(self) -> None:
        self._epoch = self._fit.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._common)

    def end_epoch(self, fitted: dict[str, Any]) -> bool:
        """Whether a callback asks to stop; `fitted` are the attributes with which the estimator can predict."""
        return self._epoch.call_on_fit_task_end(**self._common, reconstruction_attributes=fitted)

    def end(self) -> None:
        self._fit.call_on_fit_task_end(**self._common, reconstruction_attributes={})
