r"""Processes that train one network together, each on samples of its own.

Process r has samples of total weight :math:`W_r` and log-risk :math:`L_r`. All samples together
have

.. math:: L = \log \sum_r W_r e^{L_r} - \log \sum_r W_r, \qquad
    \nabla L = \sum_r \pi_r \nabla L_r, \quad \pi_r = \frac{W_r e^{L_r}}{\sum_s W_s e^{L_s}},

which is not the mean of the processes' gradients. Two numbers are gathered, and gradients are
scaled and summed; then every process takes the same step.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sklearn_robust._documentation import see
from sklearn_robust.neural_network._passes import Objective


class Ranks:
    """One process alone, or the processes of torch.distributed's default group.

    Every method that speaks of all processes must be called by each of them, in the same order.

    Parameters
    ----------
    together : bool
        Whether the group trains together.

    Attributes
    ----------
    size, rank : int
        The number of processes, and the place of this one among them.
    """

    def __init__(self, together: bool) -> None:
        self.size = distributed.get_world_size() if together else 1
        self.rank = distributed.get_rank() if together else 0

    @classmethod
    def of(cls, together: bool) -> Ranks:
        """The processes that train, by the estimator's parameter `distributed`.

        Raises
        ------
        ValueError
            If they are to train together and there is no process group.

        Warns
        -----
        UserWarning
            If there are several processes, each of which trains a network of its own.
        """
        there = distributed.is_available() and distributed.is_initialized()
        if together and not there:
            raise ValueError(
                "distributed=True needs a process group, got none. Start the script with "
                "torchrun --nproc-per-node=2, and call "
                "torch.distributed.init_process_group('gloo') before fit."
                f" {see('guide/networks')}"
            )
        n_processes = distributed.get_world_size() if there else _started_by_torchrun()
        if n_processes > 1 and not together:
            warnings.warn(
                f"Each of the {n_processes} processes of torchrun trains a network of its own, on "
                f"its own samples. With distributed=True they train one together."
                f" {see('guide/networks')}",
                UserWarning,
                stacklevel=5,
            )
        return cls(together)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def joined(self, *lists: list[Any]) -> list[list[Any]]:
        """Each list with those of the other processes behind one another."""
        return [
            [item for part in parts for item in part]
            for parts in zip(*self.gather(lists), strict=True)
        ]

    def union(self, values: np.ndarray) -> np.ndarray:
        """The distinct values of all processes, sorted."""
        return np.unique(np.concatenate(self.gather(values)))

    def most(self, number: int) -> int | None:
        """The largest number of all processes; None of a process alone."""
        return None if self.size == 1 else max(self.gather(number))

    def any(self, happens: bool) -> bool:
        """Whether it happens in some process."""
        return any(self.gather(happens))

    def total(self, value: float) -> float:
        """The sum of the processes' values."""
        return float(sum(self.gather(value)))

    def mean(self, value: float, weight: float) -> float:
        """The mean of the processes' values by their weights."""
        if self.size == 1:
            return value
        values, weights = np.array(self.gather((value, weight)), dtype=np.float64).T
        return float(values @ weights / weights.sum())

    def objective(self, own: Objective, weight: Tensor) -> Objective:
        """The log-risk of all samples, with its slopes in the outputs of this process.

        Parameters
        ----------
        own : callable
            From outputs to the log-risk of this process's samples, and its slopes.
        weight : tensor of shape (n,)
            The weights of these samples.
        """
        if self.size == 1:
            return own

        def of_all(outputs: Tensor) -> tuple[Tensor, Tensor]:
            log_risk, slopes = own(outputs)
            mine = torch.stack([log_risk, weight.sum().log()]).double()
            pairs = [torch.empty_like(mine) for _ in range(self.size)]
            distributed.all_gather(pairs, mine)
            log_risks, log_weights = torch.stack(pairs).T
            total = torch.logsumexp(log_risks + log_weights, 0)
            share = torch.exp(mine.sum() - total)
            return total - torch.logsumexp(log_weights, 0), slopes * share.to(slopes)

        return of_all

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their sums over all processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        total = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(total)
        parts = total.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def share_module(self, module: nn.Module) -> None:
        """Give all processes the parameters and buffers of the first.

        Raises
        ------
        ValueError
            If a layer normalises by the statistics of its batch, of which a process sees a part.
        """
        if self.size == 1:
            return
        normalised = [name for name, part in module.named_modules() if isinstance(part, _BatchNorm)]
        if normalised:
            raise ValueError(
                f"distributed=True needs a module in which no sample depends on its batch, got "
                f"layers that normalise by the batch: {normalised}. Use torch.nn.GroupNorm or "
                f"torch.nn.LayerNorm."
                f" {see('guide/networks')}"
            )
        for tensor in (*module.parameters(), *module.buffers()):
            distributed.broadcast(tensor.detach(), 0)

    def check_alike(self, **facts: Any) -> None:
        """Refuse data that differ between the processes in one of these facts."""
        of_all = self.gather(facts)
        for name in facts:
            values = [those[name] for those in of_all]
            if len(set(values)) > 1:
                raise ValueError(
                    f"X must have the same {name} in all {self.size} processes, got "
                    f"{values} by rank. Give each process rows of the same data."
                )


ALONE = Ranks(together=False)


def _started_by_torchrun() -> int:
    """How many processes torchrun has started, before they form a group; 1 without torchrun."""
    launched = distributed.is_available() and distributed.is_torchelastic_launched()
    return int(os.environ.get("WORLD_SIZE", "1")) if launched else 1
