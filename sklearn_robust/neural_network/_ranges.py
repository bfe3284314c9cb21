"""The ranges of the parameters of networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from sklearn_robust._parameters import Check, check_choice, check_exponent, check_number
from sklearn_robust.losses import check_loss
from sklearn_robust.neural_network._objective import NETWORK_LOSSES
from sklearn_robust.neural_network.modules import ACTIVATIONS
from sklearn_robust.neural_network.optim import check_geometry
from sklearn_robust.regions import check_clip
from sklearn_robust.threats import check_radius


def _or(value: Any, check: Check) -> Check:
    """The check of a parameter that may also be None, or a string of its own."""

    def either(given: Any, name: str) -> None:
        if not (given is None if value is None else isinstance(given, str) and given == value):
            check(given, name)

    return either


def _check_optimizer(value: Any, name: str) -> None:
    if not (callable(value) or (isinstance(value, str) and value == "steepest_descent")):
        raise ValueError(
            f"{name} must be 'steepest_descent' or a class of torch optimisers, such as "
            f"torch.optim.Adam, got {value!r}."
        )


def _check_options(value: Any, name: str) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} must be None or a dict of parameters by name, got {value!r}.")


def _check_share(value: Any, name: str) -> None:
    check_number(value, name, low=0, strict=True)
    if value >= 1:
        raise ValueError(f"{name} must be a share in (0, 1), got {value!r}.")


def _check_weight(value: Any, name: str) -> None:
    check_number(value, name, low=0)
    if value > 1:
        raise ValueError(f"{name} must be a weight in [0, 1], got {value!r}.")


def _check_class_weight(value: Any, name: str) -> None:
    if isinstance(value, dict):
        for label, weight in value.items():
            check_number(weight, f"{name}[{label!r}]", low=0)


def _check_sizes(value: Any, name: str, example: str) -> None:
    """A sequence of integers >= 1."""
    if isinstance(value, str) or not (
        isinstance(value, Sequence) or (isinstance(value, np.ndarray) and value.ndim == 1)
    ):
        raise ValueError(f"{name} must be a sequence of integers, got {value!r}. Use {example}.")
    for size in value:
        check_number(size, name, low=1, integer=True)


_check_flag = partial(check_choice, choices=(True, False))
_check_count = partial(check_number, low=1, integer=True)
_check_positive = partial(check_number, low=0, strict=True)
_check_tolerance = partial(check_number, low=0)

TRAINING: dict[str, Check] = {
    "p_algo": check_geometry,
    "q_pert": check_exponent,
    "eps": check_radius,
    "loss": partial(check_loss, losses=NETWORK_LOSSES),
    "attack": partial(check_choice, choices=("pgd", "fgsm", None)),
    "attack_steps": _check_count,
    "attack_restarts": _check_count,
    "attack_random_start": _check_flag,
    "attack_step_size": _or(None, _check_positive),
    "certified_weight": _check_weight,
    "clip": partial(check_clip, numbers=True),
    "optimizer": _check_optimizer,
    "optimizer_params": _or(None, _check_options),
    "learning_rate": _or("auto", _check_positive),
    "schedule": partial(check_choice, choices=("linear", "constant", "curvature")),
    "batch_size": _or(None, _check_count),
    "max_iter": _check_count,
    "loss_tol": _check_tolerance,
    "n_iter_no_change": _or(None, _check_count),
    "early_stopping": _check_flag,
    "validation_fraction": _check_share,
    "class_weight": _check_class_weight,
    "warm_start": _check_flag,
    "distributed": _check_flag,
    "verbose": partial(check_number, low=0, integer=True),
}
MLP: dict[str, Check] = {
    **TRAINING,
    "hidden_layer_sizes": partial(_check_sizes, example="(100,)"),
    "activation": partial(check_choice, choices=ACTIVATIONS),
    "bias": _check_flag,
    "standardize": _check_flag,
    "init_scale": _check_positive,
}
NET: dict[str, Check] = {
    **TRAINING,
    "input_shape": _or(None, partial(_check_sizes, example="(1, 28, 28)")),
}
