"""The Square Attack: random search that sees scores only, so that vanishing or misleading gradients
do not stop it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sklearn_robust._parameters import check_number
from sklearn_robust.attacks.losses import logit_margins
from sklearn_robust.attacks.search import Best, Settings, answer
from sklearn_robust.attacks.target import Target, check_labels, evaluating
from sklearn_robust.regions import Region

# shares of the budget after which windows halve
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def square(
    model: Any,
    X: Any,
    y: Any,
    *,
    eps: float,
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
    generator = settings.generator()

    def margins(points: Tensor, rows: Tensor) -> Tensor:
        x = points.view(len(points), *target.X.shape[1:]).split(batch_size or len(points))
        logits = torch.cat([target.scores(part) for part in x]).to(points)
        check_labels(target.y[rows], logits)
        return logit_margins(logits, target.y[rows])

    with torch.no_grad(), evaluating(target.module):
        everything = torch.arange(len(target.X), device=target.X.device)
        best = Best(region.x.clone(), margins(region.x, everything), stop_when_broken)
        # perturbations
        current = Best(torch.zeros_like(region.x), best.margins.clone(), stop_when_broken)
        draw = _Draw(target.X, generator)
        for query in range(n_queries):
            if current.final:
                break
            share = window / 2 ** sum(query >= past * n_queries for past in _HALVINGS)
            signs, receiving = draw.stripes() if query == 0 else draw.signs(), draw.window(share)
            giving, portion = draw.window(share), draw.portion()
            signs = region.movable(signs)
            rows = current.open()
            here, delta = region.rows(rows), current.points[rows]
            if query == 0:
                moved = signs[rows] * (
                    region.eps / here.norm.value(signs[rows])[:, None].clamp(min=1)
                )
            elif region.norm.p == math.inf:
                moved = torch.where(receiving[rows], signs[rows] * region.eps, delta)
            else:
                moved = _move_budget(
                    delta, signs[rows], receiving[rows], giving[rows], portion[rows], region
                )
            moved = here.project(moved)
            found = margins(here.place(moved), rows)
            if query == 0:  # the search starts here, even where the sample itself is better
                current.margins[rows] = math.inf
            current.update(moved, found, rows)
        best.update(region.place(current.points), current.margins)
    return answer(target, best.points.view(target.X.shape), settings)


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
