"""Auto-PGD without a target, then towards each rival: the attack that judges networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_robust._parameters import check_number
from sklearn_robust.attacks.auto_pgd import apgd
from sklearn_robust.attacks.search import is_linear
from sklearn_robust.attacks.target import Target, evaluating

_STEPS = 20
_STEPS_OF_TWO = 50  # steps for two classes, which have one rival: restarts stand for targets
_RESTARTS_OF_TWO = 3
_JUDGED_ROWS = 2048  # at a time: bounds the memory that activations take


def ensemble(
    model: Any,
    X: Any,
    y: Any,
    *,
    eps: Any,
    q: float = math.inf,
    clip: tuple[Any, Any] | None = None,
    scale: Any = None,
    n_steps: int | None = None,
    loss: str = "margin",
    n_targets: int = 9,
    n_restarts: int = 1,
    **search_options: Any,
) -> Any:
    r"""Auto-PGD on the cross-entropy from each sample; then, for samples that stand it, on the
    margin over each of the best rivals in turn.

    Parameters
    ----------
    model, X, y, eps, q, clip, scale
        As in `pgd`.
    n_steps : int, optional
        Steps of each search. By default 20; for two classes 50, on the margin from at least 3
        starts.
    loss : {"margin", "cross_entropy", "dlr"}, default="margin"
        Steps of the searches towards rivals.
    n_targets : int, default=9
        How many of the best rivals are attacked.
    n_restarts : int, default=1
        Starts of the searches towards rivals.
    **search_options
        `stop_when_broken`, `batch_size`, `random_state`, `device`, as in `pgd`.

    Returns
    -------
    ndarray or Tensor of shape (n, ...)
        Perturbed samples, in the type of X, inside the ball and the box as in `pgd`.

    Notes
    -----
    It follows the first two of four parts of AutoAttack (Croce and Hein 2020), with fewer steps.

    References
    ----------
    Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sklearn_robust.attacks import ensemble
    >>> network = torch.nn.Linear(2, 1, bias=False)
    >>> network.weight.data[:] = torch.tensor([[1.0, -2.0]])
    >>> ensemble(network, np.array([[0.5, 0.0]]), [1], eps=0.25, random_state=0)
    array([[0.25, 0.25]])
    """
    check_number(n_targets, "n_targets", low=1, integer=True)
    check_number(n_restarts, "n_restarts", low=1, integer=True)
    threat: dict[str, Any] = {"eps": eps, "q": q, "clip": clip, "scale": scale}
    options = {**threat, **search_options}
    steps, steps_of_two = (_STEPS, _STEPS_OF_TWO) if n_steps is None else (n_steps, n_steps)
    first = apgd(model, X, y, loss="cross_entropy", n_steps=steps, **options)
    if is_linear(model):
        return first  # the exact worst case
    margins, n_classes = judged(model, first, y)
    options.update(
        {"n_steps": steps, "n_restarts": n_restarts, "n_targets": n_targets}
        if n_classes > 2
        else {"n_steps": steps_of_two, "n_restarts": max(n_restarts, _RESTARTS_OF_TWO)}
    )
    finish = search_options.get("stop_when_broken", True)
    rows = np.flatnonzero(margins > 0) if finish else np.arange(len(margins))
    if not len(rows):
        return first
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)[rows]
    samples = X[torch.from_numpy(rows)] if isinstance(X, Tensor) else np.asarray(X)[rows]
    options["eps"] = of_rows(eps, rows, 1)
    if clip is not None:
        options["clip"] = tuple(of_rows(end, rows, np.ndim(X)) for end in clip)
    second = apgd(model, samples, labels, loss=loss, **options)
    better = judged(model, second, labels)[0] < margins[rows]
    worst = first.clone() if isinstance(first, Tensor) else first.copy()
    if isinstance(worst, Tensor):
        worst[torch.from_numpy(rows[better])] = second[torch.from_numpy(better)]
    else:
        worst[rows[better]] = second[better]
    return worst


def of_rows(values: Any, rows: np.ndarray, ndim: int) -> Any:
    """Those of some samples, of a number or array that has one entry, or one row, for each."""
    if np.ndim(values) < ndim or len(values) == 1:
        return values
    return (
        values[torch.from_numpy(rows)] if isinstance(values, Tensor) else np.asarray(values)[rows]
    )


@torch.no_grad()
def judged(model: Any, points: Any, y: Any) -> tuple[np.ndarray, int]:
    """The margin of each sample, and the number of classes."""
    target = Target.of(model, points, y)
    with evaluating(target.module):
        margins, logits = target.margins(target.X.flatten(1), batch_size=_JUDGED_ROWS)
    return margins.cpu().numpy(), max(logits.shape[-1] if logits.ndim > 1 else 1, 2)
