"""Training of a network, epoch by epoch, on the log of its robust risk."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from sklearn_robust.attacks.gradient import RADII_IN_ALL
from sklearn_robust.attacks.losses import logit_margins
from sklearn_robust.losses import MarginLoss
from sklearn_robust.neural_network._data import LoadedSamples
from sklearn_robust.neural_network._inner_maximisation import InnerMaximisation, Samples
from sklearn_robust.neural_network._objective import log_risk_and_slopes
from sklearn_robust.neural_network._optimizer import falling_rate, make_optimizer, sizes
from sklearn_robust.neural_network._passes import Passes, passes
from sklearn_robust.neural_network._ranks import ALONE, Ranks
from sklearn_robust.neural_network._worst_outputs import worst_outputs
from sklearn_robust.neural_network.modules import homogeneity

CERTIFIED = "certified_accuracy"  # the figure of the margins that intervals prove
_EXPONENTS = {"margin_l1": 1, "margin_l2": 2, "margin_linf": math.inf}

# By which a gradient is multiplied at least, so that none underflows.
_LEAST_RISK = 1e-12
# And at most: the exponential risk has no bound, and momentum would be led for hundreds of steps by
# the largest gradient that it has seen. (The logistic risk of constant scores is log K.)
_MOST_RISK = 10.0

Figures = dict[str, float]


@dataclass(frozen=True)
class Trainer:
    """A network in training.

    Parameters
    ----------
    network : Passes
        The passes through a module, whose parameters training changes.
    optimizer : torch.optim.Optimizer
        The optimiser of the module's parameters.
    attack : InnerMaximisation
    loss : MarginLoss
    generator : torch.Generator
        For batches and random starts.
    batch_size : int, optional
        None takes each step on all samples.
    set_step_size : callable, optional
        Called between gradient and step.
    degree : int, optional
        The degree of a network that is homogeneous in its parameters; None for others.
    schedule : torch.optim.lr_scheduler.LRScheduler, optional
        The schedule of the rates; its turn is after every step.
    ranks : Ranks, optional
        The processes that train together.
    certified_weight : float, default=0.0
        The weight of the risk of the margins that intervals prove.
    """

    network: Passes
    optimizer: torch.optim.Optimizer
    attack: InnerMaximisation
    loss: MarginLoss
    generator: torch.Generator
    batch_size: int | None = None
    set_step_size: Callable[[], None] | None = None
    degree: int | None = None
    schedule: LRScheduler | None = None
    ranks: Ranks = ALONE
    certified_weight: float = 0.0

    @classmethod
    def of(
        cls,
        estimator: Any,
        samples: Samples | LoadedSamples,
        seed: int,
        ranks: Ranks,
        *,
        epochs: int | None,
    ) -> Trainer:
        """The trainer of an estimator's module, by the estimator's parameters; a linear schedule
        ends after so many epochs, and None has no schedule.
        """
        optimizer, set_step_size = make_optimizer(estimator, samples, ranks)
        schedule = None
        if estimator.schedule == "linear" and epochs is not None:
            n_batches = samples.n_batches(estimator.batch_size)
            schedule = falling_rate(optimizer, epochs * (ranks.most(n_batches) or n_batches))
        one_step = estimator.attack == "fgsm"  # whose length is the radius
        step_size = None if one_step else estimator.attack_step_size
        attack = InnerMaximisation(
            n_steps={"pgd": estimator.attack_steps, "fgsm": 1, None: 0}[estimator.attack],
            step_size=None if step_size is None else float(step_size),
            radii_in_all=1.0 if one_step else RADII_IN_ALL,
            n_restarts=estimator.attack_restarts,
            random_start=estimator.attack_random_start,
        )
        return cls(
            passes(estimator.module_),
            optimizer,
            attack,
            estimator._loss,
            torch.Generator().manual_seed(seed + ranks.rank),  # each its own random starts
            estimator.batch_size,
            set_step_size,
            homogeneity(estimator.module_),
            schedule,
            ranks,
            float(estimator.certified_weight),
        )

    def epoch(self, samples: Samples | LoadedSamples) -> Figures:
        """Take a step on every batch; the module is left in evaluation mode.

        Returns
        -------
        dict of float
            The figures of `history_`: each batch is seen before its own step.
        """
        weights, figures = [], []
        n_batches = samples.n_batches(self.batch_size)
        count = self.ranks.most(n_batches)
        n_batches = count or n_batches
        on_log = n_batches == 1 or self.set_step_size is not None
        mean_weight = None if on_log else self.ranks.total(samples.total_weight) / n_batches
        self.network.module.eval()
        try:
            for batch in samples.batches(self.batch_size, self.generator, count):
                weights.append(batch.total_weight)
                figures.append(self._step(batch, mean_weight))
        finally:
            self.network.module.eval()  # after Ctrl-C too
        return merged(*self.ranks.joined(weights, figures))

    def robust_accuracy(self, samples: Samples | LoadedSamples) -> float:
        """The share of the samples that the inner maximisation leaves right."""
        right = 0.0
        for part in samples.parts():
            worst, _ = self.attack(self.network, part, self.generator)
            margins = logit_margins(self.network.outputs(worst), part.y)
            right += accuracy(margins, part.weight) * part.total_weight
        return self.ranks.mean(right / samples.total_weight, samples.total_weight)

    def _step(self, batch: Samples, mean_weight: float | None) -> Figures:
        r"""Take a step of the optimiser on the risk of a batch under attack.

        The log-risk of all samples has the direction of their risk, and steps on it do not stall as
        the risk becomes small. The mean of the log-risks of batches is not the log of their mean:
        there, unless the rate follows the curvature of the log, the gradient is that of

        .. math:: \frac{W_b}{\bar W}\, e^{L_b}, \qquad \bar W = \text{mean\_weight},

        with L_b the log-risk and W_b the weight of the batch: its mean over the batches is the risk
        of all samples. The factor :math:`e^{L_b}` of the gradient of L_b is 10 at most.
        """
        worst, clean_margins = self.attack(self.network, batch, self.generator)
        units = margin_units(self.network.module, self.degree)
        evaluations: list[tuple[Tensor, Tensor, Tensor | None]] = []
        share = None
        if mean_weight is not None:
            share = self.ranks.total(batch.total_weight) / mean_weight
        closure = functools.partial(self._evaluate, worst, batch, share, evaluations)
        self.optimizer.step(closure)  # type: ignore[arg-type]
        if self.schedule is not None:
            self.schedule.step()
        outputs, log_risk, certified = evaluations[0]  # at the parameters before the step
        margins = logit_margins(outputs, batch.y)
        figures = {
            "log_risk": float(log_risk),
            "accuracy": accuracy(clean_margins, batch.weight),
            "robust_accuracy": accuracy(margins, batch.weight),
        }
        if certified is not None:
            figures[CERTIFIED] = accuracy(logit_margins(certified, batch.y), batch.weight)
        least = float(margins.min())
        return {**figures, **{name: least / unit for name, unit in units.items()}}

    def _evaluate(
        self,
        points: Tensor,
        batch: Samples,
        share: float | None,
        evaluations: list[tuple[Tensor, Tensor, Tensor | None]],
    ) -> Tensor:
        r"""The log-risk at the perturbed samples; its gradient, or the share times that of the
        risk, is left in the parameters.

        With a certified weight kappa the risk is :math:`(1 - \kappa) R + \kappa R_c`, with
        :math:`R_c` the risk of the margins that intervals prove.
        """
        kappa = self.certified_weight
        certified: Tensor | None = None
        risk = functools.partial(log_risk_and_slopes, self.loss, y=batch.y, weight=batch.weight)
        of_all = self.ranks.objective(risk, batch.weight)

        if kappa > 0:
            certified = worst_outputs(self.network.module, batch.region, batch.y)
            log_certified, certified_slopes = of_all(certified.detach())

        def objective(outputs: Tensor) -> tuple[Tensor, Tensor]:
            log_risk, slopes = of_all(outputs)
            if certified is not None:
                parts = torch.stack([log_risk, log_certified])
                parts = parts + parts.new_tensor([1 - kappa, kappa]).log()
                log_risk = parts.logsumexp(0)
                # the derivatives of the log of the sum in its parts
                of_attack, of_certified = (parts - log_risk).exp().to(slopes)
                slopes *= of_attack
                certified_slopes.mul_(of_certified)
            if share is not None:
                factor = share * log_risk.exp().clamp(_LEAST_RISK, _MOST_RISK).to(slopes)
                slopes *= factor
                if certified is not None:
                    certified_slopes.mul_(factor)
            return log_risk, slopes

        outputs, log_risk = self.network.parameter_gradients(points, objective)
        if certified is not None:
            torch.autograd.backward(certified, certified_slopes)  # adds to them
            certified = certified.detach()
        self.ranks.sum_gradients(self.network.module.parameters())
        evaluations.append((outputs, log_risk, certified))
        if self.set_step_size is not None:
            self.set_step_size()
        return log_risk


def accuracy(margins: Tensor, weight: Tensor) -> float:
    """The share of the weight on samples whose margin is positive."""
    return float((weight * (margins > 0)).sum() / weight.sum())


def merged(weights: list[float], figures: list[Figures]) -> Figures:
    r"""The figures of an epoch, from those of its batches and their weights W.

    Accuracies are averaged, the log-risk is :math:`\log \sum_b (W_b / W) e^{L_b}`, and normalised
    margins are the least ones.
    """
    if len(figures) == 1:
        return figures[0]
    share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    batches = {name: share.new_tensor([batch[name] for batch in figures]) for name in figures[0]}
    log_risks = batches.pop("log_risk")
    epoch = {"log_risk": float(torch.logsumexp(log_risks + torch.log(share), 0))}
    for name, values in batches.items():
        epoch[name] = float(values.min() if name in _EXPONENTS else share @ values)
    return epoch


def margin_units(module: nn.Module, degree: int | None) -> Figures:
    r"""The units of normalised margins, :math:`\|\theta\|_r^L`, r = 1, 2, inf, of a network
    homogeneous of degree L; none for other networks.
    """
    if degree is None:
        return {}
    lengths = sizes(list(module.parameters()), tuple(_EXPONENTS.values()))
    return {name: length**degree for name, length in zip(_EXPONENTS, lengths, strict=True)}


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
