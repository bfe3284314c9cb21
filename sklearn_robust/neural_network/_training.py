"""One epoch of training against the worst perturbation that an inner ascent finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sklearn_robust.attacks._losses import logit_margins
from sklearn_robust.attacks._target import evaluating
from sklearn_robust.attacks.gradient import projected_ascent
from sklearn_robust.losses import MarginLoss
from sklearn_robust.neural_network._objective import log_risk_backward, soft_margins
from sklearn_robust.neural_network.modules import homogeneity
from sklearn_robust.neural_network.optim import SteepestDescent
from sklearn_robust.norms import LpNorm

Batches = list[Tensor | slice]


@dataclass(frozen=True)
class InnerMaximisation:
    """The attack that training runs on every batch.

    Parameters
    ----------
    q, eps : float
        The threat: an l_q ball of radius eps.
    clip : (float, float) or None
        Range that perturbed features stay in.
    n_steps : int
        0 leaves the samples where they are.
    step_size : float or None
        None: the ascent's own default.
    n_restarts : int
        The worst point of several ascents is kept, sample by sample.
    random_start : bool
        Whether to start at a random point of the ball; later restarts always do.
    """

    q: float
    eps: float
    clip: tuple[float, float] | None = None
    n_steps: int = 10
    step_size: float | None = None
    n_restarts: int = 1
    random_start: bool = False

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The perturbed samples, and the margins of the clean ones, of shape (n,).

        The module is attacked in evaluation mode, where no sample depends on its batch.
        """
        outputs: list[Tensor] = []

        def objective(moved: Tensor) -> Tensor:
            outputs.append(module(moved))
            return -soft_margins(outputs[-1], y)

        with evaluating(module), torch.no_grad():
            active = self.n_steps > 0 and self.eps > 0
            if not active or self.random_start:
                objective(x)
            worst = x
            if active:
                worst = self._ascend(objective, x, self.random_start, generator)
                for _ in range(self.n_restarts - 1):
                    other = self._ascend(objective, x, True, generator)
                    better = objective(other) > objective(worst)
                    worst = torch.where(better.view(-1, *[1] * (x.ndim - 1)), other, worst)
        return worst, logit_margins(outputs[0].detach(), y)  # an ascent without a random start begins at x

    def _ascend(
        self, objective: Callable[[Tensor], Tensor], x: Tensor, random_start: bool, generator: torch.Generator | None
    ) -> Tensor:
        return projected_ascent(
            objective,
            x,
            q=self.q,
            eps=self.eps,
            clip=self.clip,
            n_steps=self.n_steps,
            step_size=self.step_size,
            random_start=random_start,
            generator=generator,
        )


@dataclass(frozen=True)
class Epoch:
    """What one epoch saw, each batch before its own step.

    Attributes
    ----------
    log_risk : float
        Log of the mean robust loss.
    robust_accuracy, accuracy : float
        With and without the perturbations of the inner maximisation.
    least_margin : float
        The smallest robust margin.
    """

    log_risk: float
    robust_accuracy: float
    accuracy: float
    least_margin: float


def run_epoch(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    batches: Batches,
    *,
    loss: MarginLoss,
    attack: InnerMaximisation,
    before_step: Callable[[], None] | None = None,
    generator: torch.Generator | None = None,
) -> Epoch:
    """One step of the optimiser on the log-risk of every batch.

    Parameters
    ----------
    module, optimizer
        Both are changed in place.
    x : tensor of shape (n, ...)
    y : int tensor of shape (n,)
        Index of the class.
    weight : tensor of shape (n,), > 0
    batches : list of index tensors or slices
    loss : MarginLoss
    attack : InnerMaximisation
    before_step : callable, optional
        Called between gradient and step; sets the step size.
    generator : torch.Generator, optional
        Of the random starts.

    Returns
    -------
    Epoch
    """
    clean, robust, margins = [], [], []
    module.train()
    for rows in batches:
        x_batch, y_batch, weight_batch = x[rows], y[rows], weight[rows]
        worst, clean_margins = attack(module, x_batch, y_batch, generator)
        seen: list[Tensor] = []

        def closure(
            worst: Tensor = worst, y: Tensor = y_batch, weight: Tensor = weight_batch, seen: list[Tensor] = seen
        ) -> Tensor:
            optimizer.zero_grad()
            outputs = module(worst)
            seen.append(outputs.detach())
            log_risk = log_risk_backward(loss, soft_margins(outputs, y), weight)
            if before_step is not None:
                before_step()
            return log_risk

        optimizer.step(closure)  # type: ignore[arg-type]
        clean.append(clean_margins)
        robust.append(logit_margins(seen[0], y_batch))
        margins.append(soft_margins(seen[0], y_batch))
    share = torch.cat([weight[rows] for rows in batches])
    share = share / share.sum()
    log_risk, _ = loss.log_risk_and_weights(torch.cat(margins), torch.log(share))
    least = torch.cat(robust)
    return Epoch(
        log_risk=float(log_risk),
        robust_accuracy=float(share[least > 0].sum()),
        accuracy=float(share[torch.cat(clean) > 0].sum()),
        least_margin=float(least.min()),
    )


def epoch_batches(n: int, batch_size: int | None, generator: torch.Generator) -> Batches:
    """All samples at once, or a random partition into batches."""
    if batch_size is None or batch_size >= n:
        return [slice(None)]
    return list(torch.randperm(n, generator=generator).split(batch_size))


def step_size_rule(optimizer: SteepestDescent, x: Tensor, weight: Tensor, start: float) -> Callable[[], None]:
    r"""The automatic step size of steepest descent, as a function to call between the gradient g and the step.

    Unnormalised steps (p <= 2), from parameters :math:`\theta_0` with :math:`\|\theta_0\|_2^2` = start:

    .. math:: \eta = \min\Big(\frac{1.5}{R^2 \max(1, S / 10)},\; \frac{1}{2 \|g\|_{p^*}^2}\Big), \qquad
        S = \|\theta\|_2^2 - \|\theta_0\|_2^2 + \min(\|\theta_0\|_2^2, 30),

    with R^2 = 1 + the (weighted) mean of :math:`\|x_i\|_2^2`. The first follows the curvature of the log-risk of a network with
    one hidden layer, of the order :math:`R^2 \|\theta\|^2`, to which the initial weights of a wide network add less than their
    norm says. (A single layer has curvature R^2; the max is then left out.) The second lets the log-risk fall by 1/2 a step at
    most: it bounds the step of deeper networks, where the margins have grown. Momentum mu multiplies both by 1 - mu. With twice
    these steps training is chaotic: rounding alone decides where it ends.

    Normalised steps: the constant :math:`\eta = 0.03 / (1 + \text{mean} \|x_i\|_{p^*})`, which bounds what one step adds to the
    input of any unit. The constants were found by experiment, on images, tabular data and synthetic data.
    """
    dual, share = LpNorm(optimizer.p).dual, weight / weight.sum()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    layered = sum(parameter.ndim > 1 for parameter in parameters) > 1
    if optimizer.normalized:
        rate = 0.03 / (1 + float(share @ dual.value(x.flatten(1))))
    else:
        rate = 1.5 / (1 + float(share @ (x * x).flatten(1).sum(dim=1)))

    @torch.no_grad()
    def set_rate() -> None:
        eta = rate
        if not optimizer.normalized:
            growth = (_size(parameters, 2) ** 2 - start + min(start, 30.0)) / 10 if layered else 0.0
            slope = _size([p.grad for p in parameters if p.grad is not None], dual.p) ** 2
            eta = min(rate / max(1.0, growth), 0.5 / slope if slope > 0 else math.inf)
        for group in optimizer.param_groups:
            group["lr"] = eta * (1 - group["momentum"])

    return set_rate


def _size(tensors: list[Tensor], r: float) -> float:
    """The r-norm of all entries together."""
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t, r) for t in tensors]), r))


@torch.no_grad()
def normalized_margins(module: nn.Module, least_margin: float) -> dict[str, float]:
    r"""The least margin over :math:`\|\theta\|_r^L`, r = 1, 2, inf, of a network homogeneous of degree L, else none."""
    depth = homogeneity(module)
    if depth is None:
        return {}
    margins = {}
    for name, r in (("margin_l1", 1), ("margin_l2", 2), ("margin_linf", math.inf)):
        margins[name] = least_margin / _size(list(module.parameters()), r) ** depth
    return margins


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators start at `seed` inside and are afterwards as they were: for layers that draw from them."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed(seed)
        yield
