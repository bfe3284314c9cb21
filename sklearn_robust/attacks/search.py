"""What the gradient attacks share: restarts, batches, the best point seen, and the exact answer for
linear classifiers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from sklearn_robust._parameters import check_choice, check_number
from sklearn_robust.attacks.losses import LOSSES, logit_margins, top_rivals
from sklearn_robust.attacks.target import Target, as_tensor, check_labels, evaluating
from sklearn_robust.regions import Region
from sklearn_robust.threats import check_radius


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every attack is told, as `pgd` documents it; it makes the region of any samples."""

    q: float
    eps: float
    clip: tuple[Any, Any] | None = None
    scale: Any = None
    loss: str = "margin"
    n_targets: int | None = None
    n_restarts: int = 1
    random_start: bool = False
    stop_when_broken: bool = True
    batch_size: int | None = None
    random_state: Any = None
    device: Any = None

    def __post_init__(self) -> None:
        check_radius(self.eps, "eps")
        check_choice(self.loss, "loss", LOSSES)
        check_number(self.n_restarts, "n_restarts", low=1, integer=True)
        for name in ("n_targets", "batch_size"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name, low=1, integer=True)

    def region(self, x: Tensor) -> Region:
        """Where samples may go."""
        return Region(x, self.q, self.eps, self.clip, self.scale)

    def generator(self) -> torch.Generator:
        """A generator on the CPU, so that a seed means the same on every device."""
        return torch.Generator().manual_seed(
            int(check_random_state(self.random_state).randint(2**31 - 1))
        )


@dataclass(frozen=True)
class Batch:
    """Some samples under attack: where they may go, and what a point does to the classifier. Points
    are rows.
    """

    target: Target
    region: Region
    y: Tensor
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    rival: Tensor | None

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its gradient in the perturbation, and the margins."""
        with torch.enable_grad():
            x = points.view(len(points), *self.target.X.shape[1:]).requires_grad_()
            logits = self.target.scores(x)
            value = self.loss(logits, self.y, self.rival)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return (
            value.detach(),
            self.region.pulled(gradient.flatten(1)),
            logit_margins(logits.detach(), self.y),
        )

    def margins(self, points: Tensor) -> Tensor:
        """The margins alone."""
        return logit_margins(
            self.target.scores(points.view(len(points), *self.target.X.shape[1:])), self.y
        )


class Best:
    """The point of least margin seen of each sample.

    Where `freeze`, a point that breaks its sample is final: then the answer does not depend on the
    other samples of a batch, which may go on.
    """

    def __init__(self, points: Tensor, margins: Tensor, freeze: bool) -> None:
        self.points, self.margins, self.freeze = points, margins, freeze

    def update(self, points: Tensor, margins: Tensor, rows: Any = slice(None)) -> None:
        """Take the points that are better, of the given rows."""
        better = margins < self.margins[rows]
        if self.freeze:
            better &= self.margins[rows] > 0
        self.points[rows] = torch.where(better[:, None], points, self.points[rows])
        self.margins[rows] = torch.where(better, margins, self.margins[rows])

    @property
    def final(self) -> bool:
        """Whether nothing is left to do."""
        return self.freeze and not bool((self.margins > 0).any())

    def open(self) -> Tensor:
        """The rows that are worth going on with."""
        worthwhile = self.margins > 0 if self.freeze else torch.ones_like(self.margins)
        return worthwhile.nonzero()[:, 0]


def search(
    climb: Callable[[Batch, Tensor, Best], None], model: Any, X: Any, y: Any, settings: Settings
) -> Any:
    """Let `climb(batch, start, best)` improve the best points of every batch, from every start and
    towards every target.
    """
    if is_linear(model):
        return linear_worst_case(model, X, y, settings)
    target = Target.of(model, X, y, settings.device)
    if target.module is None:
        raise TypeError(
            f"{type(model).__name__} has no input gradient: pass a torch.nn.Module, or use "
            f"attacks.square."
        )
    region, generator, freeze = (
        settings.region(target.X),
        settings.generator(),
        settings.stop_when_broken,
    )
    with torch.no_grad(), evaluating(target.module):
        logits = torch.cat(
            [target.scores(x) for x in target.X.split(settings.batch_size or len(target.X))]
        )
        check_labels(target.y, logits)
        best = Best(region.x.clone(), logit_margins(logits, target.y), freeze)
        rivals = (
            [None]
            if settings.n_targets is None
            else top_rivals(logits, target.y, settings.n_targets)
        )
        for restart in range(settings.n_restarts):
            start = (
                region.random(generator)
                if restart or settings.random_start
                else torch.zeros_like(region.x)
            )
            for rival in rivals:
                rows = best.open()
                for part in rows.split(settings.batch_size or max(len(rows), 1)):
                    if not len(part):
                        continue
                    towards = None if rival is None else rival[part]
                    batch = Batch(
                        target, region.rows(part), target.y[part], LOSSES[settings.loss], towards
                    )
                    found = Best(best.points[part], best.margins[part], freeze)
                    climb(batch, start[part], found)
                    best.update(found.points, found.margins, part)
    return answer(target, best.points.view(target.X.shape), settings)


def answer(target: Target, points: Tensor, settings: Settings) -> Any:
    """Perturbed points in the type of the X that was given, inside ball and box in that type
    too.
    """
    x = as_tensor(target.original)
    points = points.to(x.device)
    if x.is_floating_point() and x.dtype != points.dtype:
        moved = points.to(x.dtype) - target.X.to(x)
        points = settings.region(x).settled(moved.flatten(1)).view(x.shape)
    return points if isinstance(target.original, Tensor) else points.numpy()


def is_linear(model: Any) -> bool:
    """Whether the worst case of this classifier has a closed form."""
    return all(
        hasattr(model, name) for name in ("coef_", "intercept_", "classes_")
    ) and not hasattr(model, "module_")


def linear_worst_case(model: Any, X: Any, y: Any, settings: Settings) -> Any:
    """The exact attack on a linear classifier: one linear function to maximise for each rival
    class.
    """
    target = Target.of(model, X, y)
    region, y = settings.region(target.X), target.y
    coef, intercept = (
        as_tensor(np.asarray(a)).to(region.x) for a in (model.coef_, model.intercept_)
    )
    coef, intercept = torch.atleast_2d(coef), torch.atleast_1d(intercept)
    few = target.X[:16]
    given = target.scores(few).reshape(len(few), -1).to(coef)
    if given.shape[1] != len(coef) or not torch.allclose(
        given, few @ coef.T + intercept, rtol=1e-3, atol=1e-3 * float(given.abs().max())
    ):
        raise TypeError(
            f"{type(model).__name__} does not score by <coef_, x> + intercept_: its worst case is "
            f"not known here."
        )
    if len(coef) == 1:
        coef, intercept = (
            torch.cat([torch.zeros_like(coef), coef]),
            torch.cat([torch.zeros_like(intercept), intercept]),
        )
    best = Best(region.x.clone(), torch.full_like(region.x[:, 0], torch.inf), freeze=False)
    for rival in range(len(coef)):
        points = region.place(region.farthest(region.pulled(coef[rival] - coef[y])))
        leads = (points * (coef[y] - coef[rival])).sum(1) + intercept[y] - intercept[rival]
        best.update(points, leads.masked_fill(y == rival, torch.inf))
    return answer(target, best.points.view(target.X.shape), settings)
