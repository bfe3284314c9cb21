"""The Square Attack: random search that sees scores only, so that vanishing or misleading gradients
do not stop it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sklearn_robust._parameters import check_number
from sklearn_robust.attacks.search import Best, Settings, answer
from sklearn_robust.attacks.target import Target, evaluating
from sklearn_robust.regions import Region

# Shares of the budget of queries after which windows halve (Andriushchenko et al. 2020).
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def square(
    model: Any,
    X: Any,
    y: Any,
    *,
    eps: Any,
    q: float = math.inf,
    clip: tuple[Any, Any] | None = None,
    scale: Any = None,
    n_queries: int = 1000,
    window: float = 0.8,
    stop_when_broken: bool = True,
    batch_size: int | None = None,
    random_state: Any = None,
    device: Any = None,
) -> Any:
    r"""Square Attack: change a random window of each sample, and keep the change if the margin
    falls.

    Parameters
    ----------
    model : torch.nn.Module, fitted classifier or callable
        As in `pgd`; or any function from an ndarray like X to scores of shape (n, K), or (n,) or
        (n, 1) for two classes; or a classifier with a `decision_function`.
    X : ndarray or Tensor of shape (n, d), or (n, channels, height, width)
        Windows are squares of pixels for images, and random subsets of the features otherwise.
    y, eps, stop_when_broken, batch_size, random_state, device
        As in `pgd`.
    q : {1, 2, inf}, default=inf
    clip : pair (low, high) of numbers or arrays that broadcast to X, optional
        The box that the perturbed samples stay in. It must hold X.
    scale : array-like of shape (d,) or of the shape of a sample, optional
        How far the adversary can move each feature, as in `pgd`.
    n_queries : int, default=1000
        Evaluations of each sample at most.
    window : float, default=0.8
        Share of the features in the first windows, in (0, 1]; it halves as the search goes on.

    Returns
    -------
    ndarray or Tensor of shape (n, ...)
        Perturbed samples, in the type of X, inside the ball and the box as in `pgd`.

    Notes
    -----
    q = inf is the published attack: a window gets the values :math:`\pm\epsilon`, one sign a
    channel (one a feature for flat samples). For q = 1 and 2 a simpler search of the same kind is
    done: of the budget of two random windows, a random portion is moved to random signs in one of
    them; what the box cuts off is not given back at once.

    References
    ----------
    Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box adversarial
    attack via random search", ECCV 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.attacks import square
    >>> def scores(X):
    ...     return np.sign(X @ [1.0, -1.0])  # no gradient leads anywhere
    >>> square(scores, np.array([[0.2, 0.0]]), [1], eps=0.25, random_state=0)
    array([[-0.05,  0.25]])
    """
    settings = Settings(
        q=q,
        eps=eps,
        clip=clip,
        scale=scale,
        stop_when_broken=stop_when_broken,
        batch_size=batch_size,
        random_state=random_state,
        device=device,
    )
    check_number(n_queries, "n_queries", low=1, integer=True)
    if not 0 < window <= 1:
        raise ValueError(f"window must be a share in (0, 1], got {window!r}.")
    target = Target.of(model, X, y, device)
    region = settings.region(target.X)
    if region.norm.p not in (1, 2, math.inf):
        raise ValueError(
            f"q must be 1, 2 or numpy.inf for the Square Attack, got {q!r}. Use pgd or apgd for "
            f"another q."
        )
    with torch.no_grad(), evaluating(target.module):
        margins, _ = target.margins(region.x, batch_size=batch_size)
        best = Best(region.x.clone(), margins, freeze=stop_when_broken)
        walk = _Walk(target, region, best, settings)
        walk.start()
        for query in range(1, n_queries):
            if walk.current.final:
                break
            walk.step(window / 2 ** sum(query >= past * n_queries for past in _HALVINGS))
        best.update(region.place(walk.current.points), walk.current.margins)
    return answer(target, best.points, settings)


class _Walk:
    """A random walk over perturbations, which takes the steps that lower the margin.

    Parameters
    ----------
    target : Target
    region : Region
    best : Best
        The samples themselves.
    settings : Settings

    Attributes
    ----------
    current : Best
        The perturbations where the walk is, and their margins.
    """

    def __init__(self, target: Target, region: Region, best: Best, settings: Settings) -> None:
        self.target = target
        self.region = region
        self.batch_size = settings.batch_size
        self.draw = _Draw(target.X, settings.generator())
        self.current = Best(torch.zeros_like(region.x), best.margins.clone(), best.freeze)

    def start(self) -> None:
        """Begin at random stripes, even where the sample itself is better."""
        if self.current.final:
            return
        signs = self.region.movable(self.draw.stripes())
        rows = self.current.open()
        size = self.region.norm.value(signs[rows])[:, None].clamp(min=1)
        self.current.margins[rows] = math.inf
        self._try(rows, signs[rows] * (self.region.rows(rows).eps / size))

    def step(self, share: float) -> None:
        """Change windows of this share of the features."""
        signs = self.region.movable(self.draw.signs())
        receiving = self.draw.window(share)
        giving = self.draw.window(share)
        portion = self.draw.portion()
        rows = self.current.open()
        delta, region = self.current.points[rows], self.region.rows(rows)
        if region.norm.p == math.inf:
            moved = torch.where(receiving[rows], signs[rows] * region.eps, delta)
        else:
            moved = _move_budget(
                delta, signs[rows], receiving[rows], giving[rows], portion[rows], region
            )
        self._try(rows, moved)

    def _try(self, rows: Tensor, moved: Tensor) -> None:
        """Take the perturbations that lower the margins of these rows."""
        region = self.region.rows(rows)
        moved = region.project(moved)
        margins, _ = self.target.margins(region.place(moved), rows, self.batch_size)
        self.current.update(moved, margins, rows)


class _Draw:
    """Random signs and windows of shape (n, d), for all samples at once: what one gets does not
    depend on the others.
    """

    def __init__(self, X: Tensor, generator: torch.Generator) -> None:
        self.X, self.generator = X, generator
        self.image = X.ndim == 4

    def signs(self) -> Tensor:
        """One sign a channel of an image; one a feature otherwise."""
        return self._signs(1, 1)

    def stripes(self) -> Tensor:
        """One sign a column of an image; one a feature otherwise."""
        return self._signs(1, self.X.shape[-1])

    def _signs(self, height: int, width: int) -> Tensor:
        shape = (*self.X.shape[:2], height, width) if self.image else self.X.shape
        signs = 2 * torch.randint(2, shape, generator=self.generator) - 1
        return signs.to(self.X).expand(self.X.shape).flatten(1)

    def portion(self) -> Tensor:
        """A number in (0, 1] of shape (n, 1); 1 for half of the samples."""
        return (2 * torch.rand((len(self.X), 1), generator=self.generator)).clamp(max=1).to(self.X)

    def window(self, share: float) -> Tensor:
        """A square that covers this share of an image; a subset of the features otherwise."""
        if self.image:
            n, _, height, width = self.X.shape
            side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
            inside = [self._interval(n, size, side) for size in (height, width)]
            mask = inside[0][:, None, :, None] & inside[1][:, None, None, :]
            return mask.to(self.X.device).expand(self.X.shape).flatten(1)
        n, d = len(self.X), self.X[0].numel()
        chosen = (
            torch.rand((n, d), generator=self.generator)
            .topk(max(round(share * d), 1), dim=1)
            .indices
        )
        return torch.zeros((n, d), dtype=torch.bool).scatter(1, chosen, True).to(self.X.device)

    def _interval(self, n: int, size: int, length: int) -> Tensor:
        first = torch.randint(size - length + 1, (n, 1), generator=self.generator)
        return (torch.arange(size) >= first) & (torch.arange(size) < first + length)


def _move_budget(
    delta: Tensor, signs: Tensor, receiving: Tensor, giving: Tensor, portion: Tensor, region: Region
) -> Tensor:
    """Move a portion of what two windows spend of the radius, and what nothing spends, to random
    signs in one of them.
    """
    q, tiny = region.norm.p, torch.finfo(delta.dtype).tiny

    def normalised(x: Tensor) -> Tensor:
        return x / region.norm.value(x)[:, None].clamp(min=tiny)

    kept = delta.masked_fill(receiving | giving, 0)
    budget = (region.eps**q - region.norm.value(kept)[:, None] ** q).clamp(min=0) ** (1 / q)
    return kept + budget * normalised(
        (1 - portion) * normalised(delta - kept) + portion * normalised(signs * receiving)
    )
