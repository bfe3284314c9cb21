"""Any torch module as a robust classifier."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sklearn_robust.losses import MarginLoss
from sklearn_robust.neural_network._base import RobustNetBase
from sklearn_robust.neural_network._documentation import with_shared_sections
from sklearn_robust.neural_network._ranges import NET
from sklearn_robust.neural_network._saving import copied
from sklearn_robust.neural_network._training import seeded
from sklearn_robust.neural_network.modules import make_mlp


@with_shared_sections
class RobustNetClassifier(RobustNetBase):
    r"""A torch module trained against the worst perturbation of each sample.

    Minimises the robust risk :math:`\tfrac1n \sum_i \max_{\|\delta\|_q \le \epsilon} \ell(m(x_i +
    \delta, y_i))`, the inner maximum by projected ascent, the outer minimum by steepest descent in
    the geometry of the p-norm over all parameters.

    Parameters
    ----------
    module : class, function, torch.nn.Module or None, default=None
        A class or function is called for a new module, with those of the arguments `input_shape`
        (of one sample, a tuple) and `n_outputs` that it names, as `madry_cnn` and `lambda
        input_shape, n_outputs: ...` do; bind others with `functools.partial`. Arguments are passed
        by name, never by position. A module is copied, and trained on from its own weights. The
        module maps `(n, *input_shape)` to `(n, n_outputs)`; n_outputs is the number of classes, and
        1 for two classes, where a module with two outputs is taken too. None is one hidden layer of
        100 ReLUs.
    <threat>
    input_shape : sequence of int or None, default=None
        The shape in which the module takes one sample, such as (1, 28, 28) where X has flat rows of
        784; None: as in X.
    <training>

    Attributes
    ----------
    <attributes>

    See Also
    --------
    RobustMLPClassifier : Fully connected networks.
    sklearn_robust.neural_network.madry_cnn : A convolutional network.

    Notes
    -----
    <notes>

    References
    ----------
    Tsilivis, Frank, Srebro, Kempe, "The Price of Implicit Bias in Adversarially Robust
    Generalization", NeurIPS 2024, section 5. Madry et al., "Towards deep learning models resistant
    to adversarial attacks", ICLR 2018.

    Examples
    --------
    >>> import functools
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_robust import RobustNetClassifier
    >>> from sklearn_robust.neural_network import madry_cnn
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> images = (X / 16).astype("float32").reshape(-1, 1, 8, 8)
    >>> small = functools.partial(madry_cnn, channels=(4, 8), width=16)
    >>> network = RobustNetClassifier(
    ...     small, eps=0.1, clip=(0, 1), batch_size=60, loss_tol=0.3, random_state=0)
    >>> network.fit(images, y).robust_score(images, y) > 0.9
    True
    """

    _ranges = NET
    # Over all parameters the length of a step can fall to the few biases of a convolution, whose
    # gradients are sums over all pixels: its units are then soon dead, at every sample.
    _norm_over = "tensor"

    def __init__(
        self,
        module: Any = None,
        p_algo: float | str = 2,
        q_pert: float = math.inf,
        eps: float = 0.1,
        *,
        input_shape: Sequence[int] | None = None,
        loss: str | MarginLoss = "logistic",
        learning_rate: float | str = "auto",
        schedule: str = "linear",
        batch_size: int | None = 32,
        max_iter: int = 100,
        loss_tol: float = 1e-3,
        n_iter_no_change: int | None = 20,
        optimizer: Any = "steepest_descent",
        optimizer_params: dict[str, Any] | None = None,
        attack: str | None = "pgd",
        attack_steps: int = 10,
        attack_step_size: float | None = None,
        attack_restarts: int = 1,
        attack_random_start: bool = False,
        certified_weight: float = 0.0,
        clip: tuple[float, float] | None = None,
        scale: Any = None,
        threat: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        class_weight: dict[Any, float] | str | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        device: str | None = None,
        distributed: bool = False,
        verbose: int = 0,
    ) -> None:
        self.module = module
        self.p_algo = p_algo
        self.q_pert = q_pert
        self.eps = eps
        self.input_shape = input_shape
        self.loss = loss
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.loss_tol = loss_tol
        self.n_iter_no_change = n_iter_no_change
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.attack = attack
        self.attack_steps = attack_steps
        self.attack_step_size = attack_step_size
        self.attack_restarts = attack_restarts
        self.attack_random_start = attack_random_start
        self.certified_weight = certified_weight
        self.clip = clip
        self.scale = scale
        self.threat = threat
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.distributed = distributed
        self.verbose = verbose

    def _sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.input_shape is None:
            return shape
        wanted = tuple(self.input_shape)
        if math.prod(wanted) != math.prod(shape):
            raise ValueError(
                f"input_shape={self.input_shape!r} has {math.prod(wanted)} entries, a sample of X "
                f"has {math.prod(shape)}."
            )
        return wanted

    def _new_module(self, input_shape: tuple[int, ...], n_outputs: int, seed: int) -> nn.Module:
        if self.module is None:
            generator = torch.Generator().manual_seed(seed)
            mlp = make_mlp(math.prod(input_shape), n_outputs, generator=generator)
            return mlp if len(input_shape) == 1 else nn.Sequential(nn.Flatten(), *mlp)
        if isinstance(self.module, nn.Module):
            return copied(self.module)
        if not callable(self.module):
            raise ValueError(
                f"module must be a torch.nn.Module, a class or function that makes one, or None, "
                f"got {self.module!r}."
            )
        known = {"input_shape": input_shape, "n_outputs": n_outputs}
        taken = inspect.signature(self.module).parameters
        other = [
            name
            for name, parameter in taken.items()
            if name not in known and is_required(parameter)
        ]
        if other:
            raise ValueError(
                f"module={self.module!r} needs the arguments {other}. Only input_shape and "
                f"n_outputs are passed, by name: name "
                "them so, and bind others with functools.partial."
            )
        with seeded(seed, torch.device("cpu")):
            module = self.module(**{name: value for name, value in known.items() if name in taken})
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"module must make a torch.nn.Module, {self.module!r} made a "
                f"{type(module).__name__}."
            )
        return module


def is_required(parameter: inspect.Parameter) -> bool:
    """Whether a call must give the parameter a value."""
    open_ended = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and not open_ended
