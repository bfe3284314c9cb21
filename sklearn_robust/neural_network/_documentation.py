"""What the docstrings of the networks have in common: sections that a line such as `<threat>`
stands for.
"""

from __future__ import annotations

import inspect
import textwrap
from typing import TypeVar

Class = TypeVar("Class", bound=type)

_SECTIONS = {
    "threat": r"""
    p_algo : float or "spectral", default=2
        Geometry of the algorithm, in [1, inf]: 2 gradient descent, `numpy.inf` sign descent, 1
        descent in one coordinate at a time, which suits small networks only: with ten classes and
        some thousand weights it is far from fitting after thousands of steps. "spectral" is the
        largest singular value of each layer (see `SteepestDescent`).
    q_pert : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf]; with `clip` one of 1, 2 and
        inf.
    eps : float, default=0.1
        Radius of the perturbation, in the units of the features that the classifier sees.
""",
    "training": r"""
    loss : {"logistic", "exponential", "cross_entropy"} or MarginLoss, default="logistic"
        Of the margin. "cross_entropy" is another name of "logistic": with several classes that is
        what it is.
    learning_rate : float or "auto", default="auto"
        The rate of the first step. "auto": for steepest descent the root mean square of its move of
        a parameter, 0.001, times :math:`(r / 0.07)^{1.5}` in small networks, whose initial weights
        have a root mean square r > 0.07; for another optimiser, its own default.
    schedule : {"linear", "constant", "curvature"}, default="linear"
        "linear": the rate falls to zero over `max_iter` epochs, in `partial_fit` it is constant.
        "curvature": steepest descent on the log-risk at a rate that follows the norm of the
        parameters (see Notes), which `learning_rate` then must leave alone.
    batch_size : int or None, default=32
        None takes each step on all samples; `max_iter` then counts steps.
    max_iter : int, default=100
        Epochs at most.
    loss_tol : float, default=1e-3
        Training stops when the mean robust loss falls below this.
    n_iter_no_change : int or None, default=20
        Epochs without a rise that `early_stopping` waits for; None waits for ever, so that it only
        keeps the weights of the best epoch.
    optimizer : "steepest_descent" or callable, default="steepest_descent"
        `SteepestDescent` in the geometry of p_algo, or any class of torch optimisers, which p_algo
        then does not affect.
    optimizer_params : dict or None, default=None
        Further parameters of the optimiser, such as {"momentum": 0.0}. Steepest descent has
        momentum 0.9 and normalized="rms", with schedule="curvature" momentum 0 and normalized=False
        for p_algo <= 2. `norm_over` is "all", and "tensor" in `RobustNetClassifier` with other
        schedules.
    attack : {"pgd", "fgsm"} or None, default="pgd"
        The inner maximisation: projected steepest ascent, a single step of it of length eps, or
        none.
    attack_steps : int, default=10
    attack_step_size : float or None, default=None
        In the units of the features; None is 2.5 eps / attack_steps.
    attack_restarts : int, default=1
        The worst point of so many ascents is kept; the second and later ones start at random
        points.
    attack_random_start : bool, default=False
    certified_weight : float, default=0.0
        The weight, in [0, 1], of the risk of the margins that intervals prove, beside that of the
        attacked samples: networks of linear and convolutional layers, ReLUs and pooling then have
        margins that certificates prove, at a price in accuracy. 0.1 to 0.3 is a good start.
    clip : (float, float) or None, default=None
        Range that perturbed features stay in, such as (0, 1) for pixels, in training and in judging
        alike.
    scale : array-like of shape (n_features,) or of a sample, or dict, optional
        How far the adversary can move each feature, relative to the others: the threat is
        :math:`\|\delta / s\|_q \le \epsilon`, and a feature of scale 0 does not move. Features that
        a dict does not name have 1, as all have by default.
    threat : LpBall, Box, or one of these for some classes, optional
        The set of perturbations as an object of `sklearn_robust.threats`, in place of q_pert, eps,
        scale and clip: with limits, a radius for each class, or bounds of each feature.
    early_stopping : bool, default=False
        Hold out `validation_fraction` of the samples, stop when robust accuracy on them has not
        risen for `n_iter_no_change` epochs, and go back to the best epoch.
    validation_fraction : float, default=0.1
    class_weight : dict, "balanced" or None, default=None
    warm_start : bool, default=False
        Whether fit goes on from the weights of the last fit.
    random_state : int, RandomState or None, default=None
        For initial weights, batches and random starts. torch's global seed is left as it was.
    device : str or None, default=None
        None is the CPU; "cuda", "mps"; "auto" takes the best there is. Copies and pickles are on
        the CPU.
    distributed : bool, default=False
        Whether the processes of torch.distributed's default group train one network together, each
        on the samples that its call of fit is given: torchrun starts them. The weights that come of
        it are those of one process with all samples, up to rounding; `batch_size` counts the
        samples of one process.
    verbose : int, default=0
        0 prints nothing, 1 the figures of epochs 1, 2, 4, 8 and so on and of the last, a larger
        number those of every so many epochs.
""",
    "attributes": r"""
    module_ : torch.nn.Module
        The trained module, in the dtype of X (float64 or float32, float32 on "mps").
    classes_ : ndarray of shape (n_classes,)
    scale_ : ndarray of shape (n_features,) or None
        The scale of each feature.
    threat_ : LpBall, or the `threat` of the fit
        A ball has `q`, `eps` and `scale`. Scores, certificates and probabilities are
        those of the parameters of the fit, `loss` and `clip` too; parameters that `set_params`
        changes take effect in the next fit.
    history_ : dict of lists, one entry an epoch since the weights were new
        "log_risk", the log of the mean robust loss; "accuracy" and "robust_accuracy" on the
        training samples, the latter under the inner maximisation, so an upper bound;
        "certified_accuracy" with certified_weight > 0, the share that intervals prove;
        "validation_robust_accuracy" with early stopping; for networks that are homogeneous of
        degree L in their parameters, "margin_l1", "margin_l2", "margin_linf": the least robust
        margin over :math:`\|\theta\|_r^L`. Each batch is seen before its own step.
    loss_ : float
        The mean robust loss in the last epoch.
    n_iter_ : int
        Epochs of the last fit and of the calls of `partial_fit` after it.
    input_shape_ : tuple of int
        The shape of one sample as the module takes it.
    n_features_in_ : int
        Entries of one sample.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
""",
    "notes": r"""
    The default rule takes steps :math:`\theta \leftarrow \theta - \eta (1 - t/T) \sqrt N u /
    \|u\|_2` in batches, u the steepest direction in the p-norm of a running sum of gradients, N the
    number of parameters. The length is the same for every p; p decides how it is shared out: over
    all parameters, or with `RobustNetClassifier` over each tensor of them alone, with N its size.

    The gradient of a batch is that of its risk, times its weight over the mean weight of a batch:
    the mean of these over an epoch is the gradient of the risk of all samples. A batch whose risk R
    is above 10 has its gradient multiplied by 10 / R: the exponential loss has no bound, and
    momentum would long follow the largest gradient that it has seen.

    With batch_size=None steps are on the gradient of the log of the robust risk, so none stalls as
    the risk becomes small. So they are with schedule="curvature", the rule of the paper's
    experiments with `batch_size=None`: for p_algo <= 2 the rate falls as the norm of the parameters
    and the squared norm of the samples grow, and lets the log-risk fall by about 1/2 a step at
    most; for p_algo > 2 steps have p-norm :math:`0.03 / (1 + \text{mean} \|x_i\|_{p^*})`.

    A fit warns where the robust training risk ends above three quarters of that of constant scores.
    That may be a matter of training, or the honest answer: no classifier need be much better
    against that radius.

    PGD only finds some perturbation, so training accuracy under it is not proof: `robust_bounds`
    encloses the robust accuracy between a certificate and a strong attack. The inner maximisation
    sees the module in evaluation mode.
""",
}


def with_shared_sections(cls: Class) -> Class:
    """The class, whose docstring has the shared sections in place of their names."""
    # Python 3.13 takes the indent off, earlier ones do not
    doc = inspect.cleandoc(cls.__doc__ or "")
    for name, text in _SECTIONS.items():
        doc = doc.replace(f"<{name}>", textwrap.dedent(text).strip("\n"))
    cls.__doc__ = doc
    return cls
