"""The losses that an attack raises: functions of logits, each of its own sample.

`search` takes one of `LOSSES` by name. Points are judged by `logit_margins`, whatever the loss.

Logits have shape (n, K), or (n,) or (n, 1) for two classes, where one output f stands for the
logits (0, f). The label y and the rival are int tensors of shape (n,).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def logit_margins(logits: Tensor, y: Tensor) -> Tensor:
    """The lead of the true class over its best rival, of shape (n,); the sample is broken where it
    is not positive.

    Parameters
    ----------
    logits : Tensor of shape (n, K), or (n,) or (n, 1) for two classes
    y : int Tensor of shape (n,)
        Index of the true class.

    Returns
    -------
    Tensor of shape (n,)
    """
    if _is_single(logits):
        logits = logits.reshape(len(y))
        return torch.where(y > 0, logits, -logits)
    true = logits.gather(1, y[:, None])
    return true[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)


def margin(logits: Tensor, y: Tensor, rival: Tensor | None = None) -> Tensor:
    """Minus the margin: over all rivals, or over the one named."""
    if rival is None or _is_single(logits):
        return -logit_margins(logits, y)
    return (logits.gather(1, rival[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def cross_entropy(logits: Tensor, y: Tensor, rival: Tensor | None = None) -> Tensor:
    """The logistic loss of the true class, or minus that of the rival. Its gradient vanishes where
    the network is sure.
    """
    if _is_single(logits):
        return functional.softplus(-logit_margins(logits, y))
    if rival is None:
        return functional.cross_entropy(logits, y, reduction="none")
    return -functional.cross_entropy(logits, rival, reduction="none")


def dlr(logits: Tensor, y: Tensor, rival: Tensor | None = None) -> Tensor:
    """Minus the margin over the lead of the first logit on the third: invariant to shift and scale
    of the logits.

    With a rival, the third and fourth logits are averaged, so that the loss has no constant piece.
    Two logits have no such lead; minus the margin is then taken, whose scale does not matter to
    steps of a given length.
    """
    lead = margin(logits, y, rival)
    if _is_single(logits) or logits.shape[1] == 2:
        return lead
    top = logits.topk(3 if rival is None else min(4, logits.shape[1]), dim=1).values
    return lead / (top[:, 0] - top[:, 2:].mean(1)).clamp(min=1e-12)


def top_rivals(logits: Tensor, y: Tensor, n_rivals: int) -> list[Tensor]:
    """The best rival of each sample, the second best, ...: at most n_rivals and K - 1 of them."""
    if _is_single(logits):
        return [1 - y]
    order = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    return list(order[:, : min(n_rivals, logits.shape[1] - 1)].T)


def _is_single(logits: Tensor) -> bool:
    return logits.ndim == 1 or logits.shape[1] == 1


LOSSES = {"margin": margin, "cross_entropy": cross_entropy, "dlr": dlr}
