"""One epoch of training against the worst perturbation that an inner ascent finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sklearn_robust.attacks.gradient import ascend, checked_step
from sklearn_robust.attacks.losses import logit_margins
from sklearn_robust.attacks.search import Settings
from sklearn_robust.attacks.target import evaluating
from sklearn_robust.losses import MarginLoss
from sklearn_robust.neural_network._objective import (
    log_risk_and_slopes,
    margin_slopes,
    soft_margins,
)
from sklearn_robust.neural_network._passes import Passes
from sklearn_robust.neural_network.modules import homogeneity
from sklearn_robust.neural_network.optim import SteepestDescent
from sklearn_robust.norms import LpNorm
from sklearn_robust.regions import Region

Batches = list[Tensor | slice]

# entries at a time: a pass over a large array from memory costs several times one in the cache
_PART = 2**17


@dataclass(frozen=True)
class Samples:
    """What is trained on.

    Parameters
    ----------
    x : tensor of shape (n, ...)
    y : int tensor of shape (n,)
        Index of the class.
    weight : tensor of shape (n,), > 0
    region : Region
        Where the adversary may move x.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    region: Region

    def rows(self, rows: Tensor | slice) -> Samples:
        """Some of the samples."""
        return Samples(self.x[rows], self.y[rows], self.weight[rows], self.region.rows(rows))


@dataclass(frozen=True)
class InnerMaximisation:
    """The attack that training runs on every batch.

    Parameters
    ----------
    settings : Settings
        Of the threat, the restarts and the start: the worst point of several ascents is kept,
        sample by sample.
    n_steps : int
        0 leaves the samples where they are.
    step_size : float or None
        None: the ascent's own default.
    """

    settings: Settings
    n_steps: int = 10
    step_size: float | None = None

    @torch.no_grad()
    def __call__(
        self, network: Passes, samples: Samples, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The perturbed samples, and the margins of the clean ones, of shape (n,).

        The module is attacked in evaluation mode, where no sample depends on its batch.
        """
        x, y, region = samples.x, samples.y, samples.region
        seen: list[Tensor] = []
        single = (1 - 2 * y)[:, None].to(x)  # the slopes of a single output do not depend on it

        def slopes(outputs: Tensor) -> Tensor:
            return single if outputs.shape[1] == 1 else -margin_slopes(outputs, y)

        def gradient(points: Tensor) -> Tensor:
            outputs, gradient = network.input_gradient(points.view(x.shape), slopes)
            seen.append(outputs)
            return gradient.flatten(1)

        def ascended(random_start: bool) -> Tensor:
            start = region.place(region.random(generator)) if random_start else region.x.clone()
            length = checked_step(self.step_size, self.settings.eps, self.n_steps)
            return ascend(gradient, region, start, n_steps=self.n_steps, length=length).view(
                x.shape
            )

        with evaluating(network.module):
            active = self.n_steps > 0 and self.settings.eps > 0
            if not active or self.settings.random_start:
                seen.append(network.outputs(x))
            worst = x
            if active:
                worst = ascended(self.settings.random_start)
                for _ in range(self.settings.n_restarts - 1):
                    other = ascended(True)
                    better = soft_margins(network.outputs(other), y) < soft_margins(
                        network.outputs(worst), y
                    )
                    worst = torch.where(better.view(-1, *[1] * (x.ndim - 1)), other, worst)
        return worst, logit_margins(seen[0], y)  # an ascent without a random start begins at x


@dataclass(frozen=True)
class Epoch:
    """What one epoch saw, each batch before its own step.

    Attributes
    ----------
    log_risk : float
        Log of the mean robust loss.
    robust_accuracy, accuracy : float
        With and without the perturbations of the inner maximisation.
    normalized_margins : dict of float
        As by `normalized_margins`, the least over the batches.
    """

    log_risk: float
    robust_accuracy: float
    accuracy: float
    normalized_margins: dict[str, float]


def run_epoch(
    network: Passes,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    batches: Batches,
    *,
    loss: MarginLoss,
    attack: InnerMaximisation,
    before_step: Callable[[], None] | None = None,
    generator: torch.Generator | None = None,
) -> Epoch:
    """One step of the optimiser on the log-risk of every batch; the module is left in evaluation
    mode.

    Parameters
    ----------
    network : Passes
    optimizer
        It and the module of the network are changed in place.
    samples : Samples
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
    clean, robust, margins, normalized = [], [], [], []
    network.module.train()
    try:
        for rows in batches:
            batch = samples.rows(rows)
            worst, clean_margins = attack(network, batch, generator)
            seen: list[Tensor] = []

            def closure(
                worst: Tensor = worst, batch: Samples = batch, seen: list[Tensor] = seen
            ) -> Tensor:
                risks = []

                def slopes(outputs: Tensor) -> Tensor:
                    log_risk, slopes = log_risk_and_slopes(loss, outputs, batch.y, batch.weight)
                    risks.append(log_risk)
                    return slopes

                outputs = network.parameter_gradients(worst, slopes)
                if not seen:  # the parameters are still those before the step
                    normalized.append(
                        normalized_margins(
                            network.module, float(logit_margins(outputs, batch.y).min())
                        )
                    )
                seen.append(outputs)
                if before_step is not None:
                    before_step()
                return risks[0]

            optimizer.step(closure)  # type: ignore[arg-type]
            clean.append(clean_margins)
            robust.append(logit_margins(seen[0], batch.y))
            margins.append(soft_margins(seen[0], batch.y))
    finally:
        network.module.eval()  # after Ctrl-C too
    share = torch.cat([samples.weight[rows] for rows in batches])
    share = share / share.sum()
    log_risk, _ = loss.log_risk_and_weights(torch.cat(margins), torch.log(share))
    return Epoch(
        log_risk=float(log_risk),
        robust_accuracy=float(share[torch.cat(robust) > 0].sum()),
        accuracy=float(share[torch.cat(clean) > 0].sum()),
        normalized_margins={
            name: min(values[name] for values in normalized) for name in normalized[0]
        },
    )


def epoch_batches(n: int, batch_size: int | None, generator: torch.Generator) -> Batches:
    """All samples at once, or a random partition into batches; a single sample that is left joins
    the batch before it.

    Batch norm has no variance for a batch of one.
    """
    if batch_size is None or batch_size >= n:
        return [slice(None)]
    batches = list(torch.randperm(n, generator=generator).split(batch_size))
    if batch_size > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def step_size_rule(
    optimizer: SteepestDescent, x: Tensor, weight: Tensor, start: float
) -> Callable[[], None]:
    r"""The automatic step size of steepest descent, as a function to call between the gradient g
    and the step.

    Unnormalised steps (p <= 2), from parameters :math:`\theta_0` with :math:`\|\theta_0\|_2^2` =
    start:

    .. math:: \eta = \min\Big(\frac{1.5}{R^2 \max(1, S / 10)},\; \frac{1}{2 \|g\|_{p^*}^2}\Big),
    \qquad
        S = \|\theta\|_2^2 - \|\theta_0\|_2^2 + \min(\|\theta_0\|_2^2, 30),

    with R^2 = 1 + the (weighted) mean of :math:`\|x_i\|_2^2`. The first follows the curvature of
    the log-risk of a network with one hidden layer, of the order :math:`R^2 \|\theta\|^2`, to which
    the initial weights of a wide network add less than their norm says. (A single layer has
    curvature R^2; the max is then left out.) The second lets the log-risk fall by 1/2 a step at
    most: it bounds the step of deeper networks, where the margins have grown. Momentum mu
    multiplies both by 1 - mu. With twice these steps training is chaotic: rounding alone decides
    where it ends.

    Normalised steps: the constant :math:`\eta = 0.03 / (1 + \text{mean} \|x_i\|_{p^*})`, which
    bounds what one step adds to the input of any unit. The constants were found by experiment, on
    images, tabular data and synthetic data.
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
            growth = (
                (sizes(parameters, (2,))[0] ** 2 - start + min(start, 30.0)) / 10
                if layered
                else 0.0
            )
            slope = sizes([p.grad for p in parameters if p.grad is not None], (dual.p,))[0] ** 2
            eta = min(rate / max(1.0, growth), 0.5 / slope if slope > 0 else math.inf)
        for group in optimizer.param_groups:
            group["lr"] = eta * (1 - group["momentum"])

    return set_rate


def sizes(tensors: list[Tensor], exponents: tuple[float, ...]) -> list[float]:
    """The r-norm of all entries together, for each exponent r."""
    # each is in the cache for all exponents
    parts = [part for t in tensors for part in t.detach().reshape(-1).split(_PART)]
    norms = torch.stack([_size(part, r) for part in parts for r in exponents]).view(len(parts), -1)
    return [float(torch.linalg.vector_norm(norms[:, i], r)) for i, r in enumerate(exponents)]


def _size(part: Tensor, r: float) -> Tensor:
    if r == 1:  # vector_norm is several times slower than this, and than aminmax below
        return part.abs().sum()
    if r == math.inf:
        low, high = part.aminmax()
        return torch.maximum(high, -low)
    return torch.linalg.vector_norm(part, r)


@torch.no_grad()
def normalized_margins(module: nn.Module, least_margin: float) -> dict[str, float]:
    r"""The least margin over :math:`\|\theta\|_r^L`, r = 1, 2, inf, of a network homogeneous of
    degree L, else none.
    """
    depth = homogeneity(module)
    if depth is None:
        return {}
    names = ("margin_l1", "margin_l2", "margin_linf")
    lengths = sizes(list(module.parameters()), (1, 2, math.inf))
    return {name: least_margin / length**depth for name, length in zip(names, lengths, strict=True)}


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators start at `seed` inside and are afterwards as they were: for layers
    that draw from them.
    """
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed(seed)
        yield
