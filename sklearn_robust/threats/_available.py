"""Methods that an object has under a condition only.

As scikit-learn's `available_if`, without its import: workers of a cluster, which need the threats,
spare its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any


class _ConditionalMethod:
    """A method that is missing, by an AttributeError, where a check of its object fails."""

    def __init__(self, method: Callable[..., Any], check: Callable[[Any], bool]) -> None:
        self.method, self.check = method, check
        self.__doc__ = method.__doc__

    def __get__(self, owner: Any, kind: type) -> Any:
        if owner is None:
            return self.method
        if not self.check(owner):
            raise AttributeError(f"This {kind.__name__} has no attribute {self.method.__name__!r}.")
        return MethodType(self.method, owner)


def available_if(check: Callable[[Any], bool]) -> Callable[[Callable[..., Any]], Any]:
    """A decorator of methods that objects have where the check of the object holds."""
    return lambda method: _ConditionalMethod(method, check)
