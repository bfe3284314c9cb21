"""Auto-PGD: projected ascent that chooses its own step sizes."""

from __future__ import annotations

import itertools
import math
from typing import Any, Unpack

import torch
from torch import Tensor

from sklearn_robust._parameters import check_exponent, check_number
from sklearn_robust.attacks.search import Batch, Best, SearchOptions, Settings, search
from sklearn_robust.regions import Region

# Croce and Hein 2020, Algorithm 1
_MOMENTUM = 0.25  # share of the last move that the next one keeps
_SUCCESS_RATE = 0.75  # share of the steps that must raise the loss, or the step is halved

# Croce and Hein 2021, for q = 1
_GROWN_RADII = (3, 2)  # in radii of the threat: the balls that are searched before its own
_SPARSER = 1.5  # factor by which a step moves fewer coordinates than the best perturbation, and by
# which the step shrinks once that count has settled
_SETTLED = 0.95  # of the last count: the least count that is no fall
_SHORTEST_STEP = 1 / 20  # in radii
_CHECKED_SHARE = 0.12  # share of the steps between two checks of the count


def apgd(
    model: Any,
    X: Any,
    y: Any,
    *,
    eps: Any,
    q: float = math.inf,
    clip: tuple[Any, Any] | None = None,
    scale: Any = None,
    n_steps: int = 100,
    **search_options: Unpack[SearchOptions],
) -> Any:
    r"""Auto-PGD: steepest ascent with momentum, whose step is halved, from the best point so far,
    when it no longer pays.

    Parameters
    ----------
    model, X, y, eps, q, clip, scale
        As in `pgd`.
    n_steps : int, default=100
    **search_options
        As in `pgd`. The attack known as targeted APGD has loss="dlr" and n_targets=9.

    Returns
    -------
    ndarray or Tensor of shape (n, ...)
        Perturbed samples, in the type of X, inside the ball and the box as in `pgd`.

    Notes
    -----
    The first step is 2 eps long. At checkpoints, ever closer together, a sample's step is halved
    and its search goes on from its best point if fewer than three quarters of the last steps raised
    the loss, or if neither the step nor the best loss has changed since the last checkpoint (Croce
    and Hein 2020). For q = 1 a step moves only the coordinates of the largest derivatives, by equal
    amounts; how many follows the sparsity of the best perturbation, and the step shrinks from eps
    while that settles. The first third of the steps searches a ball of radius 3 eps, the second one
    of 2 eps; the next starts at the projection of the best point (Croce and Hein 2021; a search
    starts with one coordinate, which found worse points than the fifth of all that is taken there).
    Like every attack it can end at a local maximum: restarts and targets find worse points.

    References
    ----------
    Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020, Algorithm 1. Croce, Hein, "Mind the box: l1-APGD for sparse
    adversarial attacks on image classifiers", ICML 2021.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sklearn_robust.attacks import apgd
    >>> network = torch.nn.Linear(2, 2, bias=False)
    >>> network.weight.data[:] = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    >>> apgd(network, np.array([[0.5, 0.5]]), [1], eps=0.5, q=1,
    ...     clip=(0, 1), loss="dlr", stop_when_broken=False)
    array([[0.5, 0. ]])
    """
    check_number(n_steps, "n_steps", low=1, integer=True)
    climb = _climb_sparsely if check_exponent(q, "q") == 1 else _climb

    def run(batch: Batch, delta: Tensor, best: Best) -> None:
        climb(batch, delta, best, n_steps)

    settings = Settings(q=q, eps=eps, clip=clip, scale=scale, **search_options)
    return search(run, model, X, y, settings)


class _Top:
    """The highest point of each sample's ascent so far: its loss, gradient and perturbation."""

    def __init__(self, delta: Tensor, value: Tensor, gradient: Tensor) -> None:
        self.delta = delta
        self.value = value
        self.gradient = gradient

    def update(self, delta: Tensor, value: Tensor, gradient: Tensor) -> None:
        higher = value > self.value
        self.delta = torch.where(higher[:, None], delta, self.delta)
        self.gradient = torch.where(higher[:, None], gradient, self.gradient)
        self.value = torch.where(higher, value, self.value)


def _climb(batch: Batch, delta: Tensor, best: Best, n_steps: int) -> None:
    """Croce and Hein 2020, Algorithm 1."""
    region = batch.region
    value, gradient = _look(batch, delta, best)
    top = _Top(delta, value, gradient)
    last = delta
    step = 2 * region.eps * torch.ones_like(delta[:, :1])
    rises = torch.zeros_like(value)
    halved = torch.ones_like(value, dtype=torch.bool)
    checked = 0  # the step of the last checkpoint
    top_then = top.value
    checkpoints = _checkpoints(n_steps)
    for k in range(1, n_steps + 1):
        if best.final:
            return
        # z = P(x + eta u), x+ = P(x + (1 - a)(z - x) + a (x - x-)), a = 0 in the first step
        ahead = region.project(region.step(delta, gradient, step))
        momentum = _MOMENTUM if k > 1 else 0.0
        moved = delta + (1 - momentum) * (ahead - delta) + momentum * (delta - last)
        last = delta
        delta = region.project(moved)
        before = value
        value, gradient = _look(batch, delta, best)
        top.update(delta, value, gradient)
        rises += value > before
        if k in checkpoints:
            stalled = ~halved & (top.value <= top_then)
            halved = (rises < _SUCCESS_RATE * (k - checked)) | stalled
            step = torch.where(halved[:, None], step / 2, step)
            # on from the top, without momentum
            delta = torch.where(halved[:, None], top.delta, delta)
            last = torch.where(halved[:, None], top.delta, last)
            gradient = torch.where(halved[:, None], top.gradient, gradient)
            value = torch.where(halved, top.value, value)
            rises = torch.zeros_like(rises)
            checked = k
            top_then = top.value


def _climb_sparsely(batch: Batch, delta: Tensor, best: Best, n_steps: int) -> None:
    """Croce and Hein 2021: in a ball of three times the radius, then of twice, then in the ball
    itself.
    """
    for factor in _GROWN_RADII:
        delta = _climb_stage(batch, batch.region.grown(factor), delta, None, n_steps // 3).delta
    top = _climb_stage(batch, batch.region, delta, best, n_steps - 2 * (n_steps // 3))
    # the worst point of the loss linearised there: steps circle around such corners
    if not best.final:
        _look(batch, batch.region.farthest(top.gradient), best)


def _climb_stage(
    batch: Batch, region: Region, delta: Tensor, best: Best | None, n_steps: int
) -> _Top:
    """The highest point in this ball; each step moves the k coordinates of the largest derivatives
    that are free.
    """
    d = delta.shape[1]
    delta = region.project(delta)
    value, gradient = _look(batch, delta, best)
    top = _Top(delta, value, gradient)
    step = region.eps * torch.ones_like(delta[:, :1])
    sparsity = _count(delta) / _SPARSER
    every = max(math.ceil(_CHECKED_SHARE * n_steps), 1)
    for k in range(1, n_steps + 1):
        if best is not None and best.final:
            break
        size = torch.where(region.room(gradient, delta) > 0, gradient.abs(), 0)
        count = sparsity.floor().clamp(1, d).long()
        level = size.topk(int(count.max()), dim=1).values.gather(1, count - 1)
        sign = gradient.sign() * (size >= level) * (size > 0)
        delta = region.project(delta + step * sign / sign.abs().sum(1, keepdim=True).clamp(min=1))
        value, gradient = _look(batch, delta, best)
        top.update(delta, value, gradient)
        if k % every == 0:
            fewer = _count(top.delta) / _SPARSER
            shorter = (step / _SPARSER).clamp(min=region.eps * _SHORTEST_STEP)
            step = torch.where(fewer >= _SETTLED * sparsity, shorter, region.eps)
            sparsity = fewer
            delta = top.delta
            gradient = top.gradient
    return top


def _count(delta: Tensor) -> Tensor:
    """Number of coordinates that move, of shape (n, 1)."""
    return (delta != 0).sum(1, keepdim=True)


def _look(batch: Batch, delta: Tensor, best: Best | None) -> tuple[Tensor, Tensor]:
    """The loss and its gradient at a perturbation; the point is kept if it is the best, where one
    is looked for.
    """
    points = batch.region.place(delta)
    value, gradient, margins = batch.evaluate(points)
    if best is not None:
        best.update(points, margins)
    return value, gradient


def _checkpoints(n_steps: int) -> set[int]:
    """After 22 % of the steps, then 19 %, 16 %, ... more, and 6 % at least."""
    gaps = itertools.chain((22, 19, 16, 13, 10, 7), itertools.repeat(6))
    percents = itertools.takewhile(lambda percent: percent < 100, itertools.accumulate(gaps))
    return {math.ceil(percent * n_steps / 100) for percent in percents}
