"""Certified margins and radii of networks, one number a sample."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from sklearn_robust._array_api import to_numpy
from sklearn_robust._documentation import see
from sklearn_robust._parameters import check_choice, check_exponent, check_number, refuse_lazy
from sklearn_robust.attacks.target import class_of_each, evaluating, off_device
from sklearn_robust.regions import Region, products
from sklearn_robust.verification.bounds import (
    MAX_ENTRIES,
    input_bounds,
    interval_bound,
    largest_layer,
    linear_bound,
    output_rounding,
)
from sklearn_robust.verification.layers import Layer, read_network
from sklearn_robust.verification.mixed_integer import exact_margins
from sklearn_robust.verification.slopes import optimised_bound

METHODS = ("interval", "crown-ibp", "crown", "alpha-crown", "exact")
_SOLVER_TOLERANCE = 1e-6  # the mixed-integer solver's, on constraints and optimality (HiGHS)

# The scores of a module must be those of its layers to this share of the largest one, or it is
# refused: larger differences than those of rounding in float32 mean that it was misread.
_READING_TOL = 1e-2
_READ_ROWS = 16  # samples on which the scores are compared


def certified_margins(
    module: nn.Module,
    X: Any,
    y: ArrayLike,
    *,
    eps: float | ArrayLike,
    q: float = math.inf,
    clip: tuple[Any, Any] | None = None,
    scale: Any = None,
    method: str = "crown",
    batch_size: int | None = None,
    time_limit: float = 60.0,
) -> np.ndarray:
    r"""Lower bounds on the worst-case margins of a ReLU network.

    .. math:: m_i \;\le\; \min_{x'} \min_{k \ne y_i} f_{y_i}(x') - f_k(x'), \qquad \|(x' - x_i) /
       s\|_q \le \epsilon, \quad
        \text{low} \le x' \le \text{high}.

    A positive one proves that no perturbation of the threat changes the decision away from y.

    Parameters
    ----------
    module : torch.nn.Sequential
        Nested as you like, of Linear, Conv2d, ReLU, MaxPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d,
        Flatten, Unflatten, Identity and Dropout. It is judged in evaluation mode, whatever mode it
        is in, and left as it is. Its scores are (n, K), or (n, 1) for two classes: f > 0 is class
        1, and the margin is f or -f. Weights may be those of `torch.nn.utils.parametrize`, as of
        `torch.nn.utils.parametrizations.weight_norm`. A module with forward hooks, and so with
        those of `torch.nn.utils.prune` until `prune.remove`, is refused: a hook may change
        anything.
    X : array-like or tensor of shape `(n, *shape)`
        Inputs of the module.
    y : array-like of shape (n,)
        Index of the true class of each sample, from 0.
    eps : float or array-like of shape (n,)
        Radius of the perturbation, in the units of X; an array holds one for each sample.
    q : float, default=inf
        Exponent of the norm that bounds the perturbation, in [1, inf].
    clip : (low, high), optional
        The box that perturbed inputs keep to, such as (0, 1) for pixels: numbers, or arrays that
        broadcast to X.
    scale : array-like of shape (d,) or of `shape`, optional
        How far the adversary can move each feature, relative to the others: s above, 1 by default.
        A feature of scale 0 does not move.
    method : {"interval", "crown-ibp", "crown", "alpha-crown", "exact"}, default="crown"
        From the cheapest to the tightest. "interval" propagates intervals. "crown-ibp" moves linear
        bounds on the margin to the input, with intervals for the hidden units. "crown" bounds
        the hidden units in that way too, which for deep convolutional networks costs far more. Each
        result is at least that of intervals. "alpha-crown" optimises the slopes of the bounds on
        those margins that "crown" leaves open. "exact" solves a mixed-integer program for each
        sample and class, with q = inf or 1 and without max pooling. It suits some tens of inputs
        and up to about a hundred units whose sign can change: seen, 64 inputs and 100 units, under
        3 s a sample. With 784 inputs most samples can run into `time_limit`.
    batch_size : int, optional
        Samples at a time; the result does not depend on it. By default few enough to keep the
        memory small.
    time_limit : float, default=60
        Seconds for each sample with method="exact".

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    TypeError
        If a layer is not supported, or a hook, a `forward` of its own or a parameter that is not
        known may change what it computes; the message names layer and cause. Also if the module's
        scores on X are not those that its layers give.

    Warns
    -----
    ConvergenceWarning
        If method="exact" ran out of time for some samples: their entries are the lower bounds
        proved until then.

    Notes
    -----
    Proved means: of the network as it runs, in the type of its parameters. Its rounding, and that
    of the bounds, which are computed in float64, are charged to the margin: a sum of m products, in
    any order, has a relative error of at most :math:`(1 + u)^m - 1` in the products' sizes, with
    unit roundoff u. Arithmetic that is coarser than the parameters' type (TF32 on GPUs, autocast,
    fast convolutions by Winograd's method) is not covered. For networks on images in float32 the
    charge is some thousandths of the scores; `module.double()` has next to none. The mixed-integer
    solver (HiGHS) holds constraints and optimality to about 1e-6, which is charged too.

    Linear bounds on the input are minimised over ball and box together, exactly but for rounding,
    for every q.

    References
    ----------
    Gowal et al., "On the effectiveness of interval bound propagation for training verifiably robust
    models", 2018. Zhang, Weng, Chen, Hsieh, Daniel, "Efficient neural network robustness
    certification with general activation functions", NeurIPS 2018 (the adaptive lower line). Xu et
    al., "Fast and complete", ICLR 2021 (optimised slopes). Zhang et al., "Towards stable and
    efficient training of verifiably robust neural networks", ICLR 2020 (crown-ibp). Tjeng, Xiao,
    Tedrake, "Evaluating robustness of neural networks with mixed integer programming", ICLR 2019,
    equation 6.

    Examples
    --------
    >>> import torch
    >>> from sklearn_robust.verification import certified_margins
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> with torch.no_grad():
    ...     values = [[1, 1], [1, -1]], [0, 0], [[1, -1]], [-0.5]
    ...     for parameter, value in zip(network.parameters(), values):
    ...         _ = parameter.copy_(torch.tensor(value))
    >>> for method in ("interval", "crown", "exact"):
    ...     margins = certified_margins(network, [[1.0, 0.5]], [1], eps=0.2, method=method)
    ...     print(method, margins.round(2))
    interval [-0.3]
    crown [0.1]
    exact [0.1]
    """
    verifier = _Verifier(module, X, y, q, clip, scale, method, batch_size, time_limit)
    return verifier.margins(_radii(eps, verifier.x))


def certified_radius(
    module: nn.Module,
    X: Any,
    y: ArrayLike,
    *,
    q: float = math.inf,
    clip: tuple[Any, Any] | None = None,
    scale: Any = None,
    method: str = "crown",
    max_radius: float = 1.0,
    tol: float = 1e-4,
    batch_size: int | None = None,
    time_limit: float = 60.0,
) -> np.ndarray:
    """A radius within which each sample is proved to keep its class, by bisection.

    Parameters
    ----------
    module, X, y, q, clip, scale, method, batch_size, time_limit
        As in `certified_margins`.
    max_radius : float, default=1.0
        Larger radii are not looked for.
    tol : float, default=1e-4
        Width of the last bracket, in the units of eps.

    Returns
    -------
    ndarray of shape (n,)
        The lower end of the bracket: the certified margin at this radius is positive. 0 where the
        clean prediction is wrong, `max_radius` where that is certified.

    Notes
    -----
    Linear bounds need not fall steadily with eps, so that a larger radius may by chance be
    certified too; what is returned is proved either way.

    Examples
    --------
    >>> import torch
    >>> from sklearn_robust.verification import certified_radius
    >>> network = torch.nn.Linear(2, 1)
    >>> with torch.no_grad():
    ...     _ = network.weight.copy_(torch.tensor([[3.0, 4.0]])), network.bias.zero_()
    >>> certified_radius(network, [[1.0, 0.0], [-1.0, 0.0]], [1, 1], q=2).round(3)
    array([0.6, 0. ])
    """
    check_number(max_radius, "max_radius", low=0, strict=True)
    check_number(tol, "tol", low=0, strict=True)
    refuse_lazy(X=X, y=y)
    verifier = _Verifier(module, X, y, q, clip, scale, method, batch_size, time_limit)
    n = len(verifier.x)

    def is_certified(rows: np.ndarray, radii: np.ndarray) -> np.ndarray:
        of_all = np.zeros(n)
        of_all[rows] = radii
        return verifier.margins(_radii(of_all, verifier.x), rows) > 0

    low = np.zeros(n)
    high = np.full(n, float(max_radius))
    rows = np.flatnonzero(is_certified(np.arange(n), low))
    tried = high[rows]
    while len(rows):
        certified = is_certified(rows, tried)
        low[rows[certified]] = tried[certified]
        high[rows[~certified]] = tried[~certified]
        # no float lies between neighbours
        rows = rows[high[rows] - low[rows] > np.maximum(tol, np.spacing(high[rows]))]
        tried = (low[rows] + high[rows]) / 2
    return low


class _Verifier:
    """A network as layers, and the samples at which it is bounded, for any radii.

    Parameters
    ----------
    module, X, y, q, clip, scale, method, batch_size, time_limit
        As in `certified_margins`.

    Attributes
    ----------
    x : Tensor of shape (n, ...)
        The samples in float64.
    """

    def __init__(
        self,
        module: nn.Module,
        X: Any,
        y: ArrayLike,
        q: float,
        clip: tuple[Any, Any] | None,
        scale: Any,
        method: str,
        batch_size: int | None,
        time_limit: float,
    ) -> None:
        check_exponent(q, "q")
        check_choice(method, "method", METHODS)
        check_number(time_limit, "time_limit", low=0, strict=True)
        if method == "exact" and q not in (1, math.inf):
            raise ValueError(
                f"method='exact' supports q = 1 and q = inf, where the threat is a polytope, got "
                f"q={q!r}."
                f" {see('guide/verification')}"
            )
        single = getattr(X, "dtype", None) in (torch.float32, np.float32)
        self.layers = read_network(module, torch.float32 if single else torch.float64)
        devices = (p.device for p in module.parameters() if p.device.type != "mps")
        self.x = _samples(X, next(devices, torch.device("cpu")))
        self.q = q
        self.clip = clip
        self.scale = scale
        self.method = method
        self.time_limit = time_limit
        self.differences = _differences(self.layers, self.x, y)
        _check_reading(module, self.layers, self.x)
        if batch_size is None:
            n_entries = self.differences.shape[1] * largest_layer(self.layers, self.x)
            batch_size = max(1, MAX_ENTRIES // n_entries)
        check_number(batch_size, "batch_size", low=1, integer=True)
        self.batch_size = batch_size

    def margins(self, radii: Tensor, rows: np.ndarray | None = None) -> np.ndarray:
        """Lower bounds on the margins of some samples; `radii` holds one for each of all."""
        regions = Region(self.x, self.q, radii, self.clip, self.scale)
        chosen = np.arange(len(self.x)) if rows is None else rows
        margins = []
        unfinished = 0
        for part in torch.as_tensor(chosen, device=self.x.device).split(self.batch_size):
            least, late = self._least(regions.rows(part), self.differences[part])
            margins.append(to_numpy(least))
            unfinished += late
        if unfinished:
            warnings.warn(
                f"{unfinished} of {len(chosen)} samples were not solved within {self.time_limit:g} "
                f"seconds each; their margins are lower bounds. Increase time_limit."
                f" {see('guide/verification')}",
                ConvergenceWarning,
                stacklevel=3,
            )
        return np.concatenate(margins)

    def _least(self, region: Region, differences: Tensor) -> tuple[Tensor, int]:
        """Bounds on the least difference of scores of each sample, and the number of samples for
        which time ran out.
        """
        linear = self.method in ("crown", "alpha-crown", "exact")
        bounds = input_bounds(self.layers, region, linear=linear)
        lower = interval_bound(self.layers, bounds, region, differences)
        if self.method != "interval":
            lower = torch.maximum(lower, linear_bound(self.layers, bounds, region, differences))
        left = (lower.amin(dim=1) <= 0).nonzero()[:, 0]
        if self.method == "alpha-crown" and len(left):
            parts = [(least[left], most[left]) for least, most in bounds]
            optimised = optimised_bound(self.layers, parts, region.rows(left), differences[left])
            lower[left] = torch.maximum(lower[left], optimised)
        if self.method != "exact":
            return lower.amin(dim=1), 0
        least, late = exact_margins(
            self.layers, bounds, region, differences, lower, self.time_limit
        )
        # the charge: rounding of the network, and the tolerance of the solver
        charge = products(differences.abs(), output_rounding(self.layers, bounds)).amax(dim=1)
        charge += _SOLVER_TOLERANCE * (1 + least.abs())
        return torch.maximum(least - charge, lower.amin(dim=1)), late


def _samples(X: Any, device: torch.device) -> Tensor:
    """Inputs in float64 on the network's device."""
    refuse_lazy(X=X)
    x = X.detach() if isinstance(X, Tensor) else torch.from_numpy(np.array(X, dtype=np.float64))
    if not bool(torch.isfinite(x).all()):
        raise ValueError("X must be finite; it contains nan or inf. Impute missing values first.")
    return x.to(device, torch.float64)


def _radii(eps: Any, x: Tensor) -> Tensor:
    """The radius of each sample."""
    given = np.asarray(off_device(eps))
    radii = (
        given.astype(np.float64) if given.dtype.kind in "iuf" else np.full(given.shape, math.nan)
    )
    if radii.shape not in ((), (len(x),)) or not np.all((radii >= 0) & (radii < math.inf)):
        raise ValueError(
            f"eps must be a finite number >= 0, or one for each of the {len(x)} samples, got "
            f"{eps!r}."
        )
    return torch.from_numpy(radii.astype(np.float64)).to(x).expand(len(x))


def _differences(layers: list[Layer], x: Tensor, y: ArrayLike) -> Tensor:
    """The differences of scores f_y - f_k that decide each sample, as rows of shape (n, K - 1, K);
    +-f for one output.
    """
    scores = x[:1]
    for layer in layers:
        scores = layer(scores)
    if scores.ndim != 2:
        raise ValueError(
            f"The module must return scores of shape (n, n_outputs), got {tuple(scores.shape)} for "
            f"one sample."
        )
    n_outputs = scores.shape[1]
    true = class_of_each(y, len(x), n_outputs).to(x.device)
    if n_outputs == 1:
        return (2.0 * true - 1).to(x.dtype).view(-1, 1, 1)
    scores_of = torch.eye(n_outputs, dtype=x.dtype, device=x.device)
    rivals = (true.unsqueeze(1) + torch.arange(1, n_outputs, device=x.device)) % n_outputs
    return scores_of[true].unsqueeze(1) - scores_of[rivals]


def _check_reading(module: nn.Module, layers: list[Layer], x: Tensor) -> None:
    """The module must compute what its layers say, up to rounding, on some of the samples."""
    few = x[:_READ_ROWS]
    like = next((p for p in module.parameters() if p.is_floating_point()), x)
    read = few
    for layer in layers:
        read = layer(read)
    with torch.no_grad(), evaluating(module):
        scores = module(few.to(like)).to(read)
    if scores.shape != read.shape or not torch.allclose(
        scores, read, rtol=_READING_TOL, atol=_READING_TOL * float(read.abs().max())
    ):
        raise TypeError(
            f"{type(module).__name__} does not compute what its layers say: something that is not "
            f"seen in them changes its "
            "scores, or its arithmetic is too coarse. No bounds are known for it. Use plain "
            "layers, or module.double()."
            f" {see('guide/verification')}"
        )
