"""The frame of an attack: settings, starts, targets and batches around a climb of one's own.

An attack is a function `climb(batch, start, best)`. It moves the perturbations of a `Batch` from
their start, evaluates points, and shows every point to `best`. `search` calls it from each start,
towards each target and on each batch, and returns the best points in the type of the data. `pgd`
and `apgd` are such climbs; docs/extending.md has another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from sklearn_robust._documentation import see
from sklearn_robust._parameters import check_choice, check_number
from sklearn_robust.attacks.linear import has_coef
from sklearn_robust.attacks.losses import LOSSES, logit_margins, top_rivals
from sklearn_robust.attacks.target import Target, as_tensor, evaluating, input_gradient
from sklearn_robust.regions import Region
from sklearn_robust.threats import check_radius

# A classifier with coefficients must score by them to this share of its largest score.
_SCORE_TOL = 1e-3
_COMPARED_ROWS = 16  # samples on which its scores are compared


def radii_of_samples(eps: Any, n_samples: int | None = None) -> float | np.ndarray:
    """A radius >= 0 as a float, or that of each of so many samples."""
    if np.ndim(eps) == 0:
        return check_radius(eps, "eps")
    given = np.asarray(eps.detach().cpu() if isinstance(eps, Tensor) else eps)
    radii = given.astype(np.float64) if given.dtype.kind in "iuf" else np.full(given.shape, np.nan)
    valid = radii.ndim == 1 and n_samples in (None, len(radii))
    if not (valid and bool(((radii >= 0) & (radii < np.inf)).all())):
        raise ValueError(
            f"eps must be a finite number >= 0, or hold one for each sample, got {eps!r}."
        )
    return radii


class SearchOptions(TypedDict, total=False):
    """The keywords of `Settings` beside the threat, which `pgd` and `apgd` pass on."""

    loss: str
    n_targets: int | None
    n_restarts: int
    random_start: bool
    stop_when_broken: bool
    batch_size: int | None
    random_state: Any
    device: Any


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The threat of an attack, and how it searches.

    Parameters
    ----------
    q, eps, clip, scale
        The threat, as in `pgd`.
    loss, n_targets, n_restarts, random_start, stop_when_broken, batch_size, random_state, device
        As in `pgd`.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    q: float
    eps: Any
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
        radii_of_samples(self.eps)
        check_choice(self.loss, "loss", LOSSES)
        check_number(self.n_restarts, "n_restarts", low=1, integer=True)
        for name in ("n_targets", "batch_size"):
            if getattr(self, name) is not None:
                check_number(getattr(self, name), name, low=1, integer=True)

    def region(self, x: Tensor) -> Region:
        """The region in which the adversary may move samples."""
        radii = radii_of_samples(self.eps, len(x))
        eps = radii if isinstance(radii, float) else torch.as_tensor(radii, device=x.device).to(x)
        return Region(x, self.q, eps, self.clip, self.scale)

    def generator(self) -> torch.Generator:
        """A generator on the CPU, so that a seed means the same on every device."""
        return torch.Generator().manual_seed(
            int(check_random_state(self.random_state).randint(2**31 - 1))
        )

    def starts(self, region: Region) -> Iterator[Tensor]:
        """The perturbations at which each restart begins: zero at first, unless `random_start`."""
        generator = self.generator()
        for restart in range(self.n_restarts):
            at_random = self.random_start or restart > 0
            yield region.random(generator) if at_random else torch.zeros_like(region.x)

    def rivals(self, logits: Tensor, y: Tensor) -> list[Tensor] | list[None]:
        """The rival class of each sample, for each target in turn; None is any rival."""
        return [None] if self.n_targets is None else top_rivals(logits, y, self.n_targets)


@dataclass(frozen=True)
class Batch:
    """Samples under attack.

    Attributes
    ----------
    target : Target
        The classifier.
    region : Region
        The region in which the samples may move.
    y : Tensor of shape (n,)
        Index of each sample's class.
    loss : callable
        The loss to raise, a function of logits, y and rival.
    rival : Tensor of shape (n,) or None
        Index of the class to attack towards; None is any other class.
    """

    target: Target
    region: Region
    y: Tensor
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    rival: Tensor | None

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its gradient in the perturbation, and the margins, at rows of points."""
        seen = []

        def objective(x: Tensor) -> Tensor:
            seen.append(self.target.score(x))
            return self.loss(seen[0], self.y, self.rival)

        value, gradient = input_gradient(objective, points, torch.ones_like)
        margins = logit_margins(seen[0].detach(), self.y)
        return value, self.region.gradient_in_units(gradient), margins

    def margins(self, points: Tensor) -> Tensor:
        """The margins alone."""
        return logit_margins(self.target.score(points), self.y)


class Best:
    """The point of least margin that was found of each sample.

    Parameters
    ----------
    points : Tensor of shape (n, d)
        The first points; `update` overwrites them.
    margins : Tensor of shape (n,)
        Their margins, overwritten too.
    freeze : bool
        Whether a point that breaks its sample is final. The answer then does not depend on the
        other samples of a batch, whose search goes on.
    """

    def __init__(self, points: Tensor, margins: Tensor, freeze: bool) -> None:
        self.points = points
        self.margins = margins
        self.freeze = freeze

    def update(self, points: Tensor, margins: Tensor, rows: Any = slice(None)) -> None:
        """Keep the points of these rows whose margins are less than the least so far."""
        better = margins < self.margins[rows]
        if self.freeze:
            better &= self.margins[rows] > 0
        self.points[rows] = torch.where(better[:, None], points, self.points[rows])
        self.margins[rows] = torch.where(better, margins, self.margins[rows])

    @property
    def final(self) -> bool:
        """Whether no sample is left to attack."""
        return self.freeze and not bool((self.margins > 0).any())

    def open(self) -> Tensor:
        """The rows of the samples that are left to attack."""
        left = self.margins > 0 if self.freeze else torch.ones_like(self.margins)
        return left.nonzero()[:, 0]

    def batches(self, batch_size: int | None) -> Iterator[Tensor]:
        """The rows that are left, some at a time."""
        rows = self.open()
        return iter(rows.split(batch_size or len(rows)) if len(rows) else ())

    def of(self, rows: Tensor) -> Best:
        """A copy of some rows."""
        return Best(self.points[rows], self.margins[rows], self.freeze)


Climb = Callable[[Batch, Tensor, Best], None]


def search(climb: Climb, model: Any, X: Any, y: Any, settings: Settings) -> Any:
    """Attack a classifier by a climb; the exact worst case where it is linear.

    Parameters
    ----------
    climb : callable
        `climb(batch, start, best)` moves perturbations of shape (n, d) from their start, and calls
        `best.update(points, margins)` for the points that it evaluates.
    model : torch.nn.Module, fitted network or fitted linear classifier
    X : ndarray or Tensor of shape (n, ...)
    y : int array of shape (n,)
    settings : Settings

    Returns
    -------
    ndarray or Tensor of shape (n, ...)
        The point of least margin of each sample, in the type of X.

    Raises
    ------
    TypeError
        If the classifier has no gradient.
    """
    if is_linear(model):
        return linear_worst_case(model, X, y, settings)
    target = Target.of(model, X, y, settings.device)
    if target.module is None:
        raise TypeError(
            f"{type(model).__name__} has no input gradient: pass a torch.nn.Module, or use "
            f"attacks.square."
            f" {see('guide/attacks')}"
        )
    region = settings.region(target.X)
    with torch.no_grad(), evaluating(target.module):
        margins, logits = target.margins(region.x, batch_size=settings.batch_size)
        best = Best(region.x.clone(), margins, freeze=settings.stop_when_broken)
        rivals = settings.rivals(logits, target.y)
        for start in settings.starts(region):
            for rival in rivals:
                for rows in best.batches(settings.batch_size):
                    towards = None if rival is None else rival[rows]
                    loss = LOSSES[settings.loss]
                    batch = Batch(target, region.rows(rows), target.y[rows], loss, towards)
                    found = best.of(rows)
                    climb(batch, start[rows], found)
                    best.update(found.points, found.margins, rows)
    return answer(target, best.points, settings)


def answer(target: Target, points: Tensor, settings: Settings) -> Any:
    """Perturbed samples in the type of the X that was given, inside ball and box in that type too.

    Parameters
    ----------
    target : Target
    points : Tensor of shape (n, d)
    settings : Settings

    Returns
    -------
    ndarray or Tensor of shape (n, ...)
    """
    x = as_tensor(target.original)
    points = points.view(target.X.shape).to(x.device)
    if x.is_floating_point() and x.dtype != points.dtype:
        moved = points.to(x.dtype) - target.X.to(x)
        points = settings.region(x).settled(moved.flatten(1)).view(x.shape)
    return points if isinstance(target.original, Tensor) else points.numpy()


def is_linear(model: Any) -> bool:
    """Whether the worst case of this classifier has a closed form."""
    return has_coef(model) and not hasattr(model, "module_")


def linear_worst_case(model: Any, X: Any, y: Any, settings: Settings) -> Any:
    """The exact attack on a linear classifier: one linear function to maximise for each rival
    class.
    """
    target = Target.of(model, X, y)
    region = settings.region(target.X)
    y = target.y
    coef = torch.atleast_2d(as_tensor(np.asarray(model.coef_)).to(region.x))
    intercept = torch.atleast_1d(as_tensor(np.asarray(model.intercept_)).to(region.x))
    _check_scores(model, target, coef, intercept)
    if len(coef) == 1:
        coef = torch.cat([torch.zeros_like(coef), coef])
        intercept = torch.cat([torch.zeros_like(intercept), intercept])
    best = Best(region.x.clone(), torch.full_like(region.x[:, 0], torch.inf), freeze=False)
    for rival in range(len(coef)):
        # the margin over the rival: <w_y - w_k, x'> + b_y - b_k
        lead = coef[y] - coef[rival]
        points = region.place(region.farthest(region.gradient_in_units(-lead)))
        margins = (points * lead).sum(1) + intercept[y] - intercept[rival]
        best.update(points, margins.masked_fill(y == rival, torch.inf))
    return answer(target, best.points, settings)


def _check_scores(model: Any, target: Target, coef: Tensor, intercept: Tensor) -> None:
    """A classifier with coefficients must score by them."""
    few = target.X[:_COMPARED_ROWS]
    given = target.scores(few).reshape(len(few), -1).to(coef)
    if given.shape[1] != len(coef) or not torch.allclose(
        given, few @ coef.T + intercept, _SCORE_TOL, _SCORE_TOL * float(given.abs().max())
    ):
        raise TypeError(
            f"{type(model).__name__} does not score by <coef_, x> + intercept_: its worst case is "
            f"not known here. Attack it as a torch.nn.Module, or by attacks.square."
            f" {see('guide/attacks')}"
        )
