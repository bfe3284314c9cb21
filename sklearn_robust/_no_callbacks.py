"""What scikit-learn 1.8, which has no callbacks, lacks: estimators that have none."""

from __future__ import annotations

from functools import wraps
from typing import Any

from sklearn_robust._documentation import see


class CallbackSupportMixin:
    """An estimator without callbacks."""

    def set_callbacks(self, *callbacks: Any) -> Any:
        """Refused: scikit-learn has callbacks from 1.9 on."""
        raise ImportError(
            f"set_callbacks needs scikit-learn 1.9 or later, got callbacks={callbacks!r}: pip "
            f"install -U scikit-learn. {see('guide/callbacks')}"
        )

    def _init_callback_context(self, **limits: Any) -> _Task:
        return _Task()


class _Task:
    """A task of a fit that nobody hears of."""

    def subcontext(self, **name: Any) -> _Task:
        return self

    def call_on_fit_task_begin(self, **data: Any) -> _Task:
        return self

    def call_on_fit_task_end(self, **data: Any) -> bool:
        return False


def with_callbacks(fit: Any) -> Any:
    """The method, called from as deep as with callbacks: its warnings name the line that fits."""

    @wraps(fit)
    def called(*args: Any, **kwargs: Any) -> Any:
        return fit(*args, **kwargs)

    return called
