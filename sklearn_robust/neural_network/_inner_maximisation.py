"""The inner maximisation of robust training: the worst points that an ascent finds."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sklearn_robust.attacks.gradient import RADII_IN_ALL, step_length
from sklearn_robust.attacks.losses import logit_margins
from sklearn_robust.neural_network._objective import margin_slopes, soft_margins
from sklearn_robust.neural_network._passes import Passes
from sklearn_robust.regions import Region


@dataclass(frozen=True)
class Samples:
    """Samples to train on.

    Parameters
    ----------
    x : tensor of shape (n, ...)
    y : int tensor of shape (n,)
        Index of the class.
    weight : tensor of shape (n,), > 0
    region : Region
        The region in which the adversary may move x.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    region: Region

    def rows(self, rows: Tensor | slice) -> Samples:
        """Some of the samples."""
        return Samples(self.x[rows], self.y[rows], self.weight[rows], self.region.rows(rows))

    @property
    def total_weight(self) -> float:
        """The sum of the weights."""
        return float(self.weight.sum())

    def class_weight(self, n_classes: int) -> np.ndarray:
        """The total weight of each class, of shape (K,)."""
        return np.bincount(self.y.cpu().numpy(), self.weight.cpu().numpy(), n_classes)

    def mean(self, figure: Callable[[Tensor], Tensor]) -> float:
        """The weighted mean of a figure of each sample, from rows (n, d) to (n,)."""
        return float(self.weight / self.weight.sum() @ figure(self.x.flatten(1)))

    def parts(self) -> Iterator[Samples]:
        """All samples, as many at a time as are in memory."""
        yield self

    def n_batches(self, batch_size: int | None) -> int:
        """How many batches an epoch has."""
        n = len(self.x)
        if batch_size is None or batch_size >= n:
            return 1
        return math.ceil(n / batch_size) - (batch_size > 1 and n % batch_size == 1)

    def batches(
        self, batch_size: int | None, generator: torch.Generator, count: int | None = None
    ) -> Iterator[Samples]:
        """All samples at once, or a random partition into batches, or into `count` alike ones.

        A single sample that is left joins the batch before it: batch norm has no variance for one.
        """
        n = len(self.x)
        if count is not None and count > 1:
            if count > n:
                raise ValueError(
                    f"Each process needs a sample for each of the {count} batches of an epoch, "
                    f"got {n} samples. Deal the samples out more evenly, or increase batch_size."
                )
            for rows in torch.randperm(n, generator=generator).tensor_split(count):
                yield self.rows(rows)
            return
        if batch_size is None or batch_size >= n:
            yield self
            return
        batches = list(torch.randperm(n, generator=generator).split(batch_size))
        if batch_size > 1 and len(batches[-1]) == 1:
            batches[-2:] = [torch.cat(batches[-2:])]
        shuffled = self.rows(torch.cat(batches))  # slices of it are views
        first = 0
        for rows in batches:
            yield shuffled.rows(slice(first, first + len(rows)))
            first += len(rows)


@dataclass(frozen=True)
class InnerMaximisation:
    """The attack that training runs on every batch.

    Parameters
    ----------
    n_steps : int, default=10
        0 leaves the samples where they are.
    step_size : float or None, default=None
        None is the default of the ascent.
    radii_in_all : float
        Radii that the default steps cover together.
    n_restarts : int, default=1
        The worst point of so many ascents is kept, sample by sample.
    random_start : bool, default=False
        Whether the first ascent starts at a random point too, as the others do.
    """

    n_steps: int = 10
    step_size: float | None = None
    radii_in_all: float = RADII_IN_ALL
    n_restarts: int = 1
    random_start: bool = False

    @torch.no_grad()
    def __call__(
        self, network: Passes, samples: Samples, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The perturbed samples, and the margins of the clean ones, of shape (n,).

        The module must be in evaluation mode, where no sample depends on its batch.
        """
        x, y = samples.x, samples.y
        if self.n_steps == 0 or samples.region.is_still:
            return x, logit_margins(network.outputs(x), y)
        if self.random_start:
            clean = network.outputs(x)
            worst, _ = self._ascend(network, samples, self._random_start(samples, generator))
        else:
            worst, clean = self._ascend(network, samples, samples.region.x.clone())
        for _ in range(self.n_restarts - 1):
            other, _ = self._ascend(network, samples, self._random_start(samples, generator))
            margins, least = (soft_margins(network.outputs(at), y) for at in (other, worst))
            worst = torch.where((margins < least).view(-1, *[1] * (x.ndim - 1)), other, worst)
        return worst, logit_margins(clean, y)

    @staticmethod
    def _random_start(samples: Samples, generator: torch.Generator | None) -> Tensor:
        return samples.region.place(samples.region.random(generator))

    def _ascend(self, network: Passes, samples: Samples, start: Tensor) -> tuple[Tensor, Tensor]:
        """Where an ascent of minus the soft margins ends, and the outputs at its start."""
        y, region = samples.y, samples.region
        single = (1 - 2 * y)[:, None].to(start)  # the slopes of a single output are constant

        def slopes(outputs: Tensor) -> Tensor:
            return single if outputs.shape[1] == 1 else -margin_slopes(outputs, y)

        points, outputs = region.ascend(
            functools.partial(network.input_gradient, slopes=slopes),
            start,
            n_steps=self.n_steps,
            length=step_length(self.step_size, region.eps, self.n_steps, self.radii_in_all),
        )
        return points.view(samples.x.shape), outputs
