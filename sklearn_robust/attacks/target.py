"""The classifier under attack: its scores, its labels and the samples as tensors, whatever it is.

An attack of one's own needs `Target.of` to read a classifier, and `input_gradient` to follow it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_robust._array_api import to_numpy
from sklearn_robust._documentation import see
from sklearn_robust._parameters import refuse_lazy, seen_class_index
from sklearn_robust.attacks.losses import logit_margins


@dataclass(frozen=True)
class Target:
    """A classifier, and the samples to perturb, as tensors.

    Attributes
    ----------
    scores : callable
        From a tensor like X to logits of shape (n, K), or (n,) or (n, 1) for two classes.
    X : Tensor of shape (n, ...)
    y : Tensor of shape (n,)
        Index of each sample's class.
    original : ndarray or Tensor
        X as it was given: attacks answer in its type.
    module : torch.nn.Module or None
        What `scores` evaluates, if it is a module.
    """

    scores: Callable[[Tensor], Tensor]
    X: Tensor
    y: Tensor
    original: Any
    module: nn.Module | None = None

    @classmethod
    def of(cls, model: Any, X: Any, y: Any, device: Any = None) -> Target:
        """Read a module, an estimator with a `module_`, or a function or estimator that scores
        arrays.
        """
        refuse_lazy(X=X, y=y)
        original = X if isinstance(X, Tensor) else np.asarray(X)
        module = getattr(model, "module_", model)
        if isinstance(module, nn.Module):
            first = next(
                (p for p in module.parameters() if p.is_floating_point()),
                torch.empty(0, dtype=_float_type(original)),
            )
            if device is not None and torch.device(device) != first.device:
                module = copy.deepcopy(module).to(device)  # the user's module stays where it is
            tensor = as_tensor(original, first.dtype, device or first.device)
            scores: Callable[[Tensor], Tensor] = module
        elif callable(model) or hasattr(model, "decision_function"):
            tensor, module = as_tensor(original, _float_type(original), "cpu"), None
            function = getattr(model, "decision_function", model)

            def scores(x: Tensor) -> Tensor:
                return torch.as_tensor(np.asarray(function(x.numpy())))
        else:
            raise TypeError(
                f"{type(model).__name__} cannot be attacked: pass a torch.nn.Module, a fitted "
                f"network of this library or a "
                "fitted linear classifier (coef_, intercept_, classes_)."
                f" {see('guide/attacks')}"
            )
        index = label_index(y, getattr(model, "classes_", None))
        if len(index) != len(tensor):
            raise ValueError(
                f"X and y must have one entry a sample each, got {len(tensor)} and {len(index)}."
            )
        return cls(scores, tensor, torch.as_tensor(index, device=tensor.device), original, module)

    def score(self, points: Tensor) -> Tensor:
        """Logits of rows of points, which get the shape of samples."""
        return self.scores(points.view(len(points), *self.X.shape[1:]))

    def margins(
        self, points: Tensor, rows: Tensor | slice = slice(None), batch_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Margins of perturbed samples, and their logits, some points at a time.

        Raises
        ------
        ValueError
            If a label has no logit.
        """
        parts = points.split(batch_size or max(len(points), 1))
        logits = torch.cat([self.score(part) for part in parts]).to(points)
        y = self.y[rows]
        check_labels(y, logits)
        return logit_margins(logits, y), logits


def input_gradient(
    function: Callable[[Tensor], Tensor], x: Tensor, slopes: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Outputs of a function, and the gradient of an objective of them in the inputs.

    Parameters
    ----------
    function : callable
        From inputs to outputs; parameters that it holds get no gradients.
    x : Tensor of shape (n, ...)
    slopes : callable
        From outputs to the derivatives of the objective in them; `torch.ones_like` for the sum of
        the outputs.

    Returns
    -------
    outputs, gradient : Tensors
        Without history, the gradient in the shape of x.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        outputs = function(x)
    (gradient,) = torch.autograd.grad(outputs, x, slopes(outputs.detach()))
    return outputs.detach(), gradient.contiguous()


def label_index(y: Any, classes: Any) -> np.ndarray:
    """Index of each label in `classes`; labels that are indices already where there are no
    classes.
    """
    y = off_device(y)
    if classes is not None:
        return seen_class_index(y, classes)
    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iub" or (len(y) and y.min() < 0):
        raise ValueError(
            "y must hold class indices 0, ..., K-1, one a sample (for a network with one output: 1 "
            f"where it is positive), got {y!r}. Encode labels by numpy.unique(y, "
            f"return_inverse=True)."
        )
    return y.astype(np.int64)


def class_of_each(y: Any, n_samples: int, n_outputs: int) -> Tensor:
    """The index of the class of each sample, for so many outputs; one stands for two classes."""
    labels, n_classes = np.asarray(off_device(y)), max(n_outputs, 2)
    if (
        labels.shape != (n_samples,)
        or labels.dtype.kind not in "iub"
        or not np.all((labels >= 0) & (labels < n_classes))
    ):
        raise ValueError(
            f"y must hold the class of each of the {n_samples} samples, as an integer from 0 to "
            f"{n_classes - 1}, got {labels!r}. Encode labels by numpy.unique(y, "
            f"return_inverse=True)."
        )
    return torch.from_numpy(labels.astype(np.int64))


def off_device(values: Any) -> Any:
    """A tensor as an array, anything else as it is."""
    return to_numpy(values) if isinstance(values, Tensor) else values


def check_labels(y: Tensor, logits: Tensor) -> None:
    """Every label must have a logit; one logit stands for two."""
    n_classes = max(logits.shape[1] if logits.ndim > 1 else 1, 2)
    if bool((y >= n_classes).any()):
        raise ValueError(
            f"y must be below the number of classes, {n_classes}, got {int(y.max())}. Give the "
            "network an output for each class, or leave these samples out."
        )


@contextmanager
def evaluating(module: nn.Module | None) -> Iterator[None]:
    """Dropout and batch norm as in prediction, for a while."""
    modes = [(m, m.training) for m in module.modules()] if module is not None else []
    for m, _ in modes:
        m.training = False
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


def _float_type(x: Any) -> torch.dtype:
    """The type to compute in: single precision for what is single or half, double for other
    numbers, as NumPy does.
    """
    single = x.dtype in (torch.float32, torch.float16, torch.bfloat16, np.float32, np.float16)
    return torch.float32 if single else torch.float64


def as_tensor(x: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """A tensor without history; one that shares the memory of x where it can."""
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        x = x.copy()  # torch has no read-only tensors
    return torch.as_tensor(x, dtype=dtype, device=device).detach()
