"""The optimiser that an estimator asks for, and the rules of its rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from sklearn_robust.neural_network._data import LoadedSamples
from sklearn_robust.neural_network._inner_maximisation import Samples
from sklearn_robust.neural_network._ranks import Ranks
from sklearn_robust.neural_network.optim import SteepestDescent
from sklearn_robust.norms import LpNorm

# The default rule, found by experiment on images, tabular data and synthetic data: one rate suits
# every p, because it fixes the root mean square of a step and leaves to p how that is shared out.
_LEAST_RATE = 1e-3
# The root mean square of initial weights up to which that is the rate; that of smaller networks is
# larger, and they have fewer steps.
_USUAL_START = 0.07
_DEFAULT_OPTIONS = {"normalized": "rms", "momentum": 0.9}

# Constants of the step size that follows the curvature.
_RATE = 1.5  # of unnormalised steps, in units of 1 / curvature; training is chaotic at twice it
_FALL = 0.5  # nats by which an unnormalised step may lower the log-risk
_NORMALISED_RATE = 0.03  # the most that a normalised step adds to the input of any unit
_NORM_SCALE = 10.0  # squared norm of the parameters from which on the curvature grows with it
_MOST_START = 30.0  # squared norm that initial weights count for at most

# Entries at a time: a pass over a large array from memory costs several times one in the cache.
_PART = 2**17


def make_optimizer(
    estimator: Any, samples: Samples | LoadedSamples, ranks: Ranks
) -> tuple[torch.optim.Optimizer, Callable[[], None] | None]:
    """The optimiser of an estimator's module, as the last call left it, and the rule of its step
    size, if that follows the curvature.

    Raises
    ------
    ValueError
        If the optimiser does not take the options.
    """
    options = dict(estimator.optimizer_params or {})
    if estimator.learning_rate != "auto":
        options["lr"] = estimator.learning_rate
    optimizer: torch.optim.Optimizer
    rule = None
    if estimator.schedule == "curvature":
        _check_curvature(estimator, options)
        options = {"lr": 1.0, "normalized": estimator.p_algo > 2, **options}
        optimizer = descent = _made(SteepestDescent, estimator, options, p=estimator.p_algo)
        rule = step_size_rule(
            descent,
            estimator._start_size,
            lambda figure: ranks.mean(samples.mean(figure), samples.total_weight),
        )
    elif estimator.optimizer == "steepest_descent":
        own = {"lr": _default_rate(estimator), "norm_over": estimator._norm_over}
        options = {**own, **_DEFAULT_OPTIONS, **options}
        optimizer = _made(SteepestDescent, estimator, options, p=estimator.p_algo)
    else:
        optimizer = _made(estimator.optimizer, estimator, options)
    last, state = estimator._optimizer_state
    if last == estimator.optimizer:  # its options are those of today
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return optimizer, rule


def _default_rate(estimator: Any) -> float:
    """The root mean square of the first step."""
    n_parameters = sum(parameter.numel() for parameter in estimator.module_.parameters())
    start = math.sqrt(estimator._start_size / n_parameters)
    return _LEAST_RATE * max(1.0, start / _USUAL_START) ** 1.5


def falling_rate(optimizer: torch.optim.Optimizer, n_steps: int) -> LRScheduler:
    r"""The rates :math:`\eta (1 - t / T)` of the steps t = 0, ..., T - 1."""
    return LambdaLR(optimizer, lambda t: max(0.0, 1 - t / n_steps))


def _check_curvature(estimator: Any, options: dict[str, Any]) -> None:
    """Refuse what leaves the rate that follows the curvature no meaning."""
    if estimator.optimizer != "steepest_descent" or estimator.p_algo == "spectral":
        raise ValueError(
            f'schedule="curvature" is for optimizer="steepest_descent" with a number as p_algo, '
            f"got optimizer={estimator.optimizer!r} and p_algo={estimator.p_algo!r}. Use "
            f'schedule="linear" or "constant".'
        )
    if "lr" in options:
        raise ValueError(
            f'schedule="curvature" finds the rate itself, got {options["lr"]!r}. Use '
            f'learning_rate="auto", or schedule="constant" or "linear".'
        )


def _made(kind: Any, estimator: Any, options: dict[str, Any], **own: Any) -> Any:
    """An optimiser of this kind, with the options of the user and our own."""
    trained = [parameter for parameter in estimator.module_.parameters() if parameter.requires_grad]
    try:
        optimizer = kind(trained, **own, **options)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"it makes a {type(optimizer).__name__}, which is no torch.optim.Optimizer"
            )
        return optimizer
    except TypeError as error:
        raise ValueError(
            f"optimizer_params={estimator.optimizer_params!r} and "
            f"learning_rate={estimator.learning_rate!r} do not suit "
            f"optimizer={estimator.optimizer!r}: {error}."
        ) from error


def step_size_rule(
    optimizer: SteepestDescent,
    start: float,
    mean: Callable[[Callable[[Tensor], Tensor]], float],
) -> Callable[[], None]:
    r"""The step size that follows the curvature, as a function to call between the gradient g and
    the step.

    Unnormalised steps (p <= 2), from parameters :math:`\theta_0` with :math:`\|\theta_0\|_2^2` =
    start:

    .. math:: \eta = \min\Big(\frac{1.5}{R^2 \max(1, S / 10)},\; \frac{1}{2 \|g\|_{p^*}^2}\Big),
       \qquad
        S = \|\theta\|_2^2 - \|\theta_0\|_2^2 + \min(\|\theta_0\|_2^2, 30),

    with R^2 = 1 + the (weighted) mean of :math:`\|x_i\|_2^2`, by `mean`, which averages a figure of
    each sample. The first follows the curvature of the log-risk of a network with one hidden layer,
    of the order :math:`R^2 \|\theta\|^2`, to which the initial weights of a wide network add less
    than their norm says. (A single layer has curvature R^2; the max is then left out.) The second
    lets the log-risk fall by 1/2 a step at most: it bounds the step of deeper networks, where the
    margins have grown. Momentum mu multiplies both by 1 - mu. With twice these steps training is
    chaotic: rounding alone decides where it ends.

    Normalised steps: the constant :math:`\eta = 0.03 / (1 + \text{mean} \|x_i\|_{p^*})`, which
    bounds the amount that one step adds to the input of any unit.
    """
    dual = LpNorm(float(optimizer.p)).dual
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    layered = sum(parameter.ndim > 1 for parameter in parameters) > 1
    if optimizer.normalized:
        rate = _NORMALISED_RATE / (1 + mean(dual.value))
    else:
        rate = _RATE / (1 + mean(lambda rows: (rows * rows).sum(dim=1)))

    def unnormalised() -> float:
        curvature = 1.0
        if layered:
            growth = sizes(parameters, (2,))[0] ** 2 - start + min(start, _MOST_START)
            curvature = max(curvature, growth / _NORM_SCALE)
        slope = sizes([p.grad for p in parameters if p.grad is not None], (dual.p,))[0] ** 2
        return min(rate / curvature, _FALL / slope if slope > 0 else math.inf)

    @torch.no_grad()
    def set_rate() -> None:
        eta = rate if optimizer.normalized else unnormalised()
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
