"""The fully connected network as an estimator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from sklearn_robust._parameters import check_choice, check_number
from sklearn_robust.losses import MarginLoss
from sklearn_robust.neural_network._base import RobustNetBase, check_sizes
from sklearn_robust.neural_network.modules import ACTIVATIONS, make_mlp


class RobustMLPClassifier(RobustNetBase):
    r"""Fully connected network trained against the worst perturbation of each sample.

    Minimises the robust risk :math:`\tfrac1n \sum_i \max_{\|\delta\|_q \le \epsilon} \ell(m(x_i + \delta, y_i))`, the inner
    maximum by projected ascent, the outer minimum by steepest descent in the geometry of the p-norm over all parameters. The
    margin m is :math:`\pm f` for two classes, scored by one output, and :math:`f_y - \log \sum_{k \ne y} e^{f_k}` for several.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, default=(100,)
        Width of each hidden layer.
    p_algo : float, default=2
        Geometry of the algorithm, in [1, inf]: 2 gradient descent, `numpy.inf` sign descent, 1 descent in one coordinate at a
        time, which suits small networks only.
    q_pert : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf]; with `clip` one of 1, 2 and inf.
    eps : float, default=0.1
        Radius of the perturbation, in the units of the features that the classifier sees.
    activation : {"relu", "leaky_relu", "tanh", "gelu", "identity"}, default="relu"
        Certificates exist for "relu" and "identity".
    bias : bool, default=True
        False with "relu" gives the homogeneous networks of the theory.
    init_scale : float, default=1.0
        Weights and biases start uniform on :math:`\pm \text{init\_scale} / \sqrt{\text{inputs of the layer}}`.
    loss : {"logistic", "exponential", "cross_entropy"} or MarginLoss, default="logistic"
        Of the margin. "cross_entropy" is another name of "logistic": with several classes that is what it is.
    learning_rate : float or "auto", default="auto"
        "auto": for steepest descent with p_algo <= 2, a rate that follows the norm of the parameters; with p_algo > 2, a
        constant rate; both scaled to the features (see Notes). For another optimiser, its own default.
    batch_size : int or None, default=None
        None takes each step on all samples.
    max_iter : int, default=300
        Epochs at most.
    loss_tol : float, default=1e-3
        Training stops when the mean robust loss falls below this.
    tol : float, default=2e-2
        Training stops when the log of the mean robust loss has fallen by less than this in `n_iter_no_change` epochs; 0 trains
        on to `loss_tol`. The rule rests while the risk is not below that of constant scores, where networks may stay for long
        before they learn.
    n_iter_no_change : int, default=20
    optimizer : "steepest_descent" or callable, default="steepest_descent"
        `SteepestDescent` in the geometry of p_algo, or any class of torch optimisers, which p_algo then does not affect.
    optimizer_params : dict or None, default=None
        Further parameters of the optimiser, such as {"momentum": 0.9}.
    attack : {"pgd", "fgsm"} or None, default="pgd"
        The inner maximisation: projected steepest ascent, a single step of it of length eps, or none.
    attack_steps : int, default=10
    attack_step_size : float or None, default=None
        In the units of the features; None is 2.5 eps / attack_steps.
    attack_restarts : int, default=1
        The worst point of so many ascents is kept; the second and later ones start at random points.
    attack_random_start : bool, default=False
    clip : (float, float) or None, default=None
        Range that perturbed features stay in, such as (0, 1) for pixels, in training and in judging alike.
    scale : array-like of shape (n_features,) or of a sample, or dict {feature name: float}, optional
        How far the adversary can move each feature, relative to the others: the threat is
        :math:`\|\delta / s\|_q \le \epsilon`, and a feature of scale 0 does not move. Features that a dict does not name have
        1, as all have by default.
    early_stopping : bool, default=False
        Hold out `validation_fraction` of the samples, stop when robust accuracy on them has not risen for
        `n_iter_no_change` epochs, and go back to the best epoch. `tol` has then no part.
    validation_fraction : float, default=0.1
    class_weight : dict, "balanced" or None, default=None
    warm_start : bool, default=False
        Whether fit goes on from the weights of the last fit.
    random_state : int, RandomState or None, default=None
        For initial weights, batches and random starts. torch's global seed is left as it was.
    device : str or None, default=None
        None is the CPU; "cuda", "mps"; "auto" takes the best there is. Copies and pickles are on the CPU.
    verbose : int, default=0
        Print the progress every so many epochs.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained module, in the dtype of X (float64 or float32, float32 on "mps").
    classes_ : ndarray of shape (n_classes,)
    scale_ : ndarray of shape (n_features,) or None
        The scale of each feature.
    threat_ : LpBall
        The threat of the fit: `q`, `eps` and `scale`. Scores, certificates and probabilities are those of the parameters of
        the fit, `loss` and `clip` too; parameters that `set_params` changes take effect in the next fit.
    history_ : dict of lists, one entry an epoch since the weights were new
        "log_risk", the log of the mean robust loss; "accuracy" and "robust_accuracy" on the training samples, the latter under
        the inner maximisation, so an upper bound; "validation_robust_accuracy" with early stopping; for networks that are
        homogeneous of degree L in their parameters, "margin_l1", "margin_l2", "margin_linf": the least robust margin over
        :math:`\|\theta\|_r^L`. Each batch is seen before its own step.
    loss_ : float
        The mean robust loss in the last epoch.
    n_iter_ : int
        Epochs of the last fit and of the calls of `partial_fit` after it.
    input_shape_ : tuple of int
        The shape of one sample as the module takes it.
    n_features_in_ : int
        Entries of one sample.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)

    See Also
    --------
    RobustNetClassifier : For any torch module.

    Notes
    -----
    Steps are on the gradient of the log of the robust risk, so none stalls as the risk becomes small. For p_algo <= 2 the
    automatic rate falls as the norm of the parameters and the squared norm of the samples grow, and lets the log-risk fall by
    about 1/2 a step at most; for p_algo > 2 steps have p-norm :math:`0.03 / (1 + \text{mean} \|x_i\|_{p^*})`. Features should
    be of comparable scale. Deep networks train faster with p_algo = inf or with `torch.optim.Adam`.

    PGD only finds some perturbation, so training accuracy under it is not proof: `robust_bounds` encloses the robust accuracy
    between a certificate and a strong attack. The inner maximisation sees the module in evaluation mode.

    References
    ----------
    Tsilivis, Frank, Srebro, Kempe, "The Price of Implicit Bias in Adversarially Robust Generalization", NeurIPS 2024,
    section 5. Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018. Tsilivis, Vardi,
    Kempe, "Flavors of Margin: Implicit Bias of Steepest Descent in Homogeneous Neural Networks", 2024 (normalised margins).

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

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (100,),
        p_algo: float = 2,
        q_pert: float = math.inf,
        eps: float = 0.1,
        *,
        activation: str = "relu",
        bias: bool = True,
        init_scale: float = 1.0,
        loss: str | MarginLoss = "logistic",
        learning_rate: float | str = "auto",
        batch_size: int | None = None,
        max_iter: int = 300,
        loss_tol: float = 1e-3,
        tol: float = 2e-2,
        n_iter_no_change: int = 20,
        optimizer: Any = "steepest_descent",
        optimizer_params: dict[str, Any] | None = None,
        attack: str | None = "pgd",
        attack_steps: int = 10,
        attack_step_size: float | None = None,
        attack_restarts: int = 1,
        attack_random_start: bool = False,
        clip: tuple[float, float] | None = None,
        scale: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        class_weight: dict[Any, float] | str | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        device: str | None = None,
        verbose: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.p_algo = p_algo
        self.q_pert = q_pert
        self.eps = eps
        self.activation = activation
        self.bias = bias
        self.init_scale = init_scale
        self.loss = loss
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.loss_tol = loss_tol
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.attack = attack
        self.attack_steps = attack_steps
        self.attack_step_size = attack_step_size
        self.attack_restarts = attack_restarts
        self.attack_random_start = attack_random_start
        self.clip = clip
        self.scale = scale
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_sizes(self.hidden_layer_sizes, "hidden_layer_sizes", "(100,)")
        check_choice(self.activation, "activation", ACTIVATIONS)
        check_choice(self.bias, "bias", (True, False))
        check_number(self.init_scale, "init_scale", low=0, strict=True)

    def _new_module(self, input_shape: tuple[int, ...], n_outputs: int, seed: int) -> torch.nn.Module:
        return make_mlp(
            input_shape[0],
            n_outputs,
            self.hidden_layer_sizes,
            activation=self.activation,
            bias=self.bias,
            init_scale=self.init_scale,
            generator=torch.Generator().manual_seed(seed),
        )
