r"""Attacks that follow the input gradient of a network: steepest ascent, projected.

The adversary of a sample maximises an objective over :math:`\|\delta\|_q \le \epsilon`, where the
perturbed sample may have to stay in a box (pixels in [0, 1]). What an attack finds bounds the
robust margin from above; only a certificate bounds it from below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor

from sklearn_robust._parameters import check_number
from sklearn_robust.attacks.search import Batch, Best, SearchOptions, Settings, search
from sklearn_robust.attacks.target import input_gradient
from sklearn_robust.regions import Region
from sklearn_robust.threats import check_radius

RADII_IN_ALL = 2.5  # radii that the steps of an ascent cover together, by default


@torch.no_grad()
def projected_ascent(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    q: float,
    eps: float,
    clip: tuple[Any, Any] | None = None,
    scale: Any = None,
    n_steps: int = 10,
    step_size: float | None = None,
    random_start: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Maximise an objective around each sample, by steps in the steepest direction and projection.

    .. math:: x \leftarrow \Pi\Big(x + \eta \arg\max_{\|u\|_q \le 1} \langle u, \nabla f(x)
       \rangle\Big),

    with :math:`\Pi` the Euclidean projection on the ball of radius eps around the sample, cut by
    the box: of both at once, not of one after the other. A step does one forward pass and one
    backward pass to the input. Parameters get no gradients.

    Parameters
    ----------
    objective : callable
        From a tensor like x to values of shape (n,), each a function of its own sample.
    x : Tensor of shape (n, ...)
    q : float
        Exponent of the norm that bounds the perturbation, in [1, inf]; 1, 2 or inf with a box.
    eps : float
        Radius, in the units of x.
    clip : pair (low, high) of numbers or arrays that broadcast to x, optional
        The box that the perturbed samples stay in. It must hold x.
    scale : array-like of shape (d,) or of the shape of a sample, optional
        How far the adversary can move each feature, relative to the others: the threat is
        :math:`\|\delta / s\|_q \le \epsilon`, and a feature of scale 0 does not move. Steps and
        projections are taken in units of the scales.
    n_steps : int, default=10
    step_size : float, optional
        q-norm of a step; 2.5 eps / n_steps by default.
    random_start : bool, default=False
        Start at a random point of the ball; at the sample itself otherwise.
    generator : torch.Generator, optional
        For the random start.

    Returns
    -------
    Tensor of shape (n, ...)
        The last iterate, inside the ball and the box.

    Examples
    --------
    >>> import math, torch
    >>> from sklearn_robust.attacks import projected_ascent
    >>> w = torch.tensor([1.0, -2.0, 0.5])
    >>> projected_ascent(lambda x: x @ w, torch.zeros(1, 3), q=math.inf, eps=0.1)
    tensor([[ 0.1000, -0.1000,  0.1000]])
    >>> projected_ascent(lambda x: x @ w, torch.zeros(1, 3), q=1, eps=3.0, clip=(-1, 1))
    tensor([[ 1., -1.,  1.]])
    """
    region = Region(x.detach(), q, check_radius(eps, "eps"), clip, scale)
    check_steps(step_size, n_steps)
    start = region.place(region.random(generator)) if random_start else region.x.clone()
    points, _ = region.ascend(
        lambda points: input_gradient(objective, points, torch.ones_like),
        start,
        n_steps=n_steps,
        length=step_length(step_size, region.eps, n_steps),
    )
    return points.view(x.shape)


def pgd(
    model: Any,
    X: Any,
    y: Any,
    *,
    eps: Any,
    q: float = math.inf,
    clip: tuple[Any, Any] | None = None,
    scale: Any = None,
    n_steps: int = 10,
    step_size: float | None = None,
    **search_options: Unpack[SearchOptions],
) -> Any:
    r"""Projected steepest ascent against a classifier; the best iterate of each sample is returned.

    Parameters
    ----------
    model : torch.nn.Module, fitted network or fitted linear classifier
        A module gives logits of shape (n, K), or (n,) or (n, 1) for two classes (class 1 where
        positive); it is attacked as in eval mode, and left as it was. An estimator with a `module_`
        is attacked through it. An estimator with `coef_`, `intercept_` and `classes_` is not
        searched: its exact worst case is returned.
    X : ndarray or Tensor of shape (n, ...)
    y : int array of shape (n,)
        Class indices 0, ..., K-1 for a module; labels for an estimator.
    eps : float or array-like of shape (n,)
        Radius, in the units of X, or that of each sample.
    q : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf]; 1, 2 or inf with a box,
        unless the classifier is linear.
    clip : pair (low, high) of numbers or arrays that broadcast to X, optional
        The box that the perturbed samples stay in. It must hold X. Of an adversary who can only add
        it is (X, inf).
    scale : array-like of shape (d,) or of the shape of a sample, optional
        How far the adversary can move each feature, relative to the others: the threat is
        :math:`\|\delta / s\|_q \le \epsilon`, and a feature of scale 0 does not move. Steps and
        projections are taken in units of the scales.
    n_steps : int, default=10
    step_size : float, optional
        q-norm of a step; 2.5 eps / n_steps by default.
    **search_options
        How the search goes, by keyword:

        n_restarts : int, default=1
            The first start is the sample itself, unless `random_start`; the others are random.
        random_start : bool, default=False
            Whether the first start is random too.
        loss : {"margin", "cross_entropy", "dlr"}, default="margin"
            What is maximised. Points are judged by their margin in any case. "cross_entropy" has
            vanishing gradients where the network is sure; "dlr" is the margin divided by the lead
            of the first logit on the third.
        n_targets : int, optional
            Attack towards each of the n_targets best rival classes in turn, from every start. By
            default towards any rival at once, which can end at a worse one.
        stop_when_broken : bool, default=True
            Leave a sample alone as soon as it is misclassified. False goes on to the least margin.
        batch_size : int, optional
            Samples attacked at once; all by default. The result does not depend on it, up to
            rounding in the model: in float32 that can differ with the size of a batch, and send a
            long search to another point.
        random_state : int, RandomState or None
            For the random starts.
        device : str or torch.device, optional
            Where to compute; where the module is, by default. The module itself is not moved.

    Returns
    -------
    ndarray or Tensor of shape (n, ...)
        Perturbed samples, in the type of X; where that is of integers, in the type of the module,
        float64 for linear classifiers. They are inside the box, and :math:`\|x' - x\|_q \le
        \epsilon` up to a relative 1e-6 in float32.

    See Also
    --------
    apgd : Chooses its own step sizes.
    square : Needs no gradient.

    References
    ----------
    Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial
    Attacks", ICLR 2018.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sklearn_robust.attacks import pgd
    >>> network = torch.nn.Linear(2, 1, bias=False)
    >>> network.weight.data[:] = torch.tensor([[1.0, -2.0]])
    >>> pgd(network, np.array([[0.5, 0.0]]), [1], eps=0.25, n_steps=4)
    array([[0.25, 0.25]])
    """
    settings = Settings(q=q, eps=eps, clip=clip, scale=scale, **search_options)
    check_steps(step_size, n_steps)

    def climb(batch: Batch, delta: Tensor, best: Best) -> None:
        region = batch.region
        length = step_length(step_size, region.eps, n_steps)
        for _ in range(n_steps):
            points = region.place(delta)
            _, gradient, margins = batch.evaluate(points)
            best.update(points, margins)
            if best.final:
                return
            delta = region.project(region.step(delta, gradient, length))
        points = region.place(delta)
        best.update(points, batch.margins(points))

    return search(climb, model, X, y, settings)


def check_steps(step_size: float | None, n_steps: int) -> None:
    """Refuse numbers of steps and lengths that are none."""
    check_number(n_steps, "n_steps", low=1, integer=True)
    if step_size is not None:
        check_number(step_size, "step_size", low=0, strict=True)


def step_length(
    step_size: float | None, eps: Any, n_steps: int, radii_in_all: float = RADII_IN_ALL
) -> Any:
    """The length of a step, by default far enough to cross the ball, with steps to spare.

    Parameters
    ----------
    step_size : float or None
    eps : float, or Tensor of shape (n, 1)
    n_steps : int
    radii_in_all : float
        Radii that the steps cover together where there is no step_size.
    """
    return radii_in_all * eps / n_steps if step_size is None else float(step_size)
