"""The fully connected network as an estimator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from sklearn_robust.losses import MarginLoss
from sklearn_robust.neural_network._base import RobustNetBase
from sklearn_robust.neural_network._coordinates import Coordinates, moments
from sklearn_robust.neural_network._data import LoadedData, Table
from sklearn_robust.neural_network._documentation import with_shared_sections
from sklearn_robust.neural_network._ranges import MLP
from sklearn_robust.neural_network.modules import make_mlp


@with_shared_sections
class RobustMLPClassifier(RobustNetBase):
    r"""Fully connected network trained against the worst perturbation of each sample.

    Minimises the robust risk :math:`\tfrac1n \sum_i \max_{\|\delta\|_q \le \epsilon} \ell(m(x_i +
    \delta, y_i))`, the inner maximum by projected ascent, the outer minimum by steepest descent in
    the geometry of the p-norm over all parameters. The margin m is :math:`\pm f` for two classes,
    scored by one output, and :math:`f_y - \log \sum_{k \ne y} e^{f_k}` for several.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, default=(100,)
        Width of each hidden layer.
    <threat>
    activation : {"relu", "leaky_relu", "tanh", "gelu", "identity"}, default="relu"
        Certificates exist for "relu" and "identity".
    bias : bool, default=True
        False with "relu" gives the homogeneous networks of the theory.
    init_scale : float, default=1.0
        Weights and biases start uniform on :math:`\pm \text{init\_scale} / \sqrt{\text{inputs of
        the layer}}`.
    standardize : bool, default=True
        Train in the coordinates :math:`(x - c) / s`, with c the mean of each feature (zero with
        bias=False) and s about its standard deviation, and store the network that does the same on
        the features as they are. The threat stays that of the features. What p_algo is the
        geometry of, and initial weights, are then those of the coordinates. It takes effect where
        weights are new, and reads a Dataset or DataLoader once more.
    <training>

    Attributes
    ----------
    <attributes>

    See Also
    --------
    RobustNetClassifier : For any torch module.

    Notes
    -----
    <notes>

    References
    ----------
    Tsilivis, Frank, Srebro, Kempe, "The Price of Implicit Bias in Adversarially Robust
    Generalization", NeurIPS 2024, section 5. Madry et al., "Towards deep learning models resistant
    to adversarial attacks", ICLR 2018. Tsilivis, Vardi, Kempe, "Flavors of Margin: Implicit Bias of
    Steepest Descent in Homogeneous Neural Networks", 2024 (normalised margins).

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sklearn_robust import RobustMLPClassifier
    >>> X, y = make_moons(60, noise=0.1, random_state=0)
    >>> network = RobustMLPClassifier((30,), eps=0.1, loss_tol=0.2, random_state=0).fit(X, y)
    >>> certified, attacked = network.robust_bounds(X, y)
    >>> certified <= attacked <= network.score(X, y)
    True
    """

    _ranges = MLP
    _norm_over = "all"

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (100,),
        p_algo: float | str = 2,
        q_pert: float = math.inf,
        eps: float = 0.1,
        *,
        activation: str = "relu",
        bias: bool = True,
        init_scale: float = 1.0,
        standardize: bool = True,
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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.p_algo = p_algo
        self.q_pert = q_pert
        self.eps = eps
        self.activation = activation
        self.bias = bias
        self.init_scale = init_scale
        self.standardize = standardize
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

    def _new_coordinates(self, data: Table | LoadedData) -> Coordinates | None:
        if not self.standardize:
            return None
        own = [moments(rows, weight) for rows, _, weight in data.parts()]
        parts = [part for parts in self._ranks.gather(own) for part in parts]
        return Coordinates.of(parts, self._sets, centred=self.bias)

    def _new_module(
        self, input_shape: tuple[int, ...], n_outputs: int, seed: int
    ) -> torch.nn.Module:
        return make_mlp(
            input_shape[0],
            n_outputs,
            self.hidden_layer_sizes,
            activation=self.activation,
            bias=self.bias,
            init_scale=self.init_scale,
            generator=torch.Generator().manual_seed(seed),
        )
