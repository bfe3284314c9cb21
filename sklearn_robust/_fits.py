"""A fit stores all of its attributes at its end, or none."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


def all_or_nothing(fit: Method) -> Method:
    """Decorate a method that fits: where it raises, the estimator keeps the attributes of its last
    fit.

    It restores which objects the attributes are, not what is in them: a fit builds new arrays and
    modules, and changes none of the last fit's in place.
    """

    @wraps(fit)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:  # Ctrl-C too
            vars(self).clear()
            vars(self).update(before)
            raise

    return method  # type: ignore[return-value]
