"""Any torch module as a robust classifier."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sklearn_robust.losses import MarginLoss
from sklearn_robust.neural_network._base import RobustNetBase, check_sizes
from sklearn_robust.neural_network._saving import copied
from sklearn_robust.neural_network._training import seeded
from sklearn_robust.neural_network.modules import make_mlp


class RobustNetClassifier(RobustNetBase):
    r"""A torch module trained against the worst perturbation of each sample.

    Minimises the robust risk :math:`\tfrac1n \sum_i \max_{\|\delta\|_q \le \epsilon} \ell(m(x_i + \delta, y_i))`, the inner
    maximum by projected ascent, the outer minimum by steepest descent in the geometry of the p-norm over all parameters.

    Parameters
    ----------
    module : class, function, torch.nn.Module or None, default=None
        A class or function is called for a new module, with those of the arguments `input_shape` (of one sample, a tuple) and
        `n_outputs` that it names, as `madry_cnn` and `lambda input_shape, n_outputs: ...` do; bind others with
        `functools.partial`. Arguments are passed by name, never by position. A module is copied, and trained
        on from its own weights. The module maps `(n, *input_shape)` to `(n, n_outputs)`; n_outputs is the number of classes,
        and 1 for two classes, where a module with two outputs is taken too. None is one hidden layer of 100 ReLUs.
    p_algo : float, default=2
        Geometry of the algorithm, in [1, inf]: 2 gradient descent, `numpy.inf` sign descent, 1 descent in one coordinate at a
        time, which suits small networks only.
    q_pert : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf]; with `clip` one of 1, 2 and inf.
    eps : float, default=0.1
        Radius of the perturbation, in the units of the features that the classifier sees.
    input_shape : sequence of int or None, default=None
        The shape in which the module takes one sample, such as (1, 28, 28) where X has flat rows of 784; None: as in X.
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
    RobustMLPClassifier : Fully connected networks.
    sklearn_robust.neural_network.madry_cnn : A convolutional network.

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
    section 5. Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.

    Examples
    --------
    >>> import functools
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_robust import RobustNetClassifier
    >>> from sklearn_robust.neural_network import madry_cnn
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> images = (X / 16).astype("float32").reshape(-1, 1, 8, 8)
    >>> small = functools.partial(madry_cnn, channels=(4, 8), width=16)
    >>> network = RobustNetClassifier(small, eps=0.1, clip=(0, 1), batch_size=60, loss_tol=0.3, random_state=0)
    >>> network.fit(images, y).robust_score(images, y) > 0.9
    True
    """

    def __init__(
        self,
        module: Any = None,
        p_algo: float = 2,
        q_pert: float = math.inf,
        eps: float = 0.1,
        *,
        input_shape: Sequence[int] | None = None,
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
        self.module = module
        self.p_algo = p_algo
        self.q_pert = q_pert
        self.eps = eps
        self.input_shape = input_shape
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
        if self.input_shape is not None:
            check_sizes(self.input_shape, "input_shape", "(1, 28, 28)")

    def _sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.input_shape is None:
            return shape
        wanted = tuple(self.input_shape)
        if math.prod(wanted) != math.prod(shape):
            raise ValueError(
                f"input_shape={self.input_shape!r} has {math.prod(wanted)} entries, a sample of X has {math.prod(shape)}."
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
                f"module must be a torch.nn.Module, a class or function that makes one, or None, got {self.module!r}."
            )
        known = {"input_shape": input_shape, "n_outputs": n_outputs}
        taken = inspect.signature(self.module).parameters
        other = [name for name, parameter in taken.items() if name not in known and is_required(parameter)]
        if other:
            raise ValueError(
                f"module={self.module!r} needs the arguments {other}. Only input_shape and n_outputs are passed, by name: name "
                "them so, and bind others with functools.partial."
            )
        with seeded(seed, torch.device("cpu")):
            module = self.module(**{name: value for name, value in known.items() if name in taken})
        if not isinstance(module, nn.Module):
            raise ValueError(f"module must make a torch.nn.Module, {self.module!r} made a {type(module).__name__}.")
        return module


def is_required(parameter: inspect.Parameter) -> bool:
    """Whether a call must give the parameter a value."""
    open_ended = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and not open_ended
