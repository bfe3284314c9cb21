"""Steepest descent in any l_p geometry, and in the spectral norm of matrices, as a torch
optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sklearn_robust._parameters import check_choice, check_exponent, check_number
from sklearn_robust.norms import LpNorm

# Newton-Schulz iteration of Jordan et al. 2024: X <- a X + (b G + c G^2) X with G = X X^T
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_LEAST_LENGTH = 1e-7  # to which the length of a gradient is raised before the iteration


class SteepestDescent(torch.optim.Optimizer):
    r"""Steepest descent in the geometry of the p-norm over the parameters.

    With g the gradient over all parameters and p* the dual exponent, one step is

    .. math::
        \theta \leftarrow \theta - \eta \, s \, u, \qquad u \in \arg\max_{\|u\|_p \le 1} \langle u,
        g \rangle,

    with s = :math:`\|g\|_{p^*}`, or 1 if normalized, or :math:`\sqrt N / \|u\|_2` for N parameters
    if normalized to a root mean square. p = 2 is gradient descent, p = inf sign descent, p = 1
    greedy coordinate descent.

    Parameters
    ----------
    params : iterable of tensors or of dicts
        Parameters, or parameter groups; a group may set its own `lr` and `momentum`.
    lr : float
        Step size :math:`\eta`, > 0.
    p : float or "spectral", default=2
        Exponent of the norm, in [1, inf]; or the largest singular value of a matrix.
    normalized : bool or "rms", default=False
        True: every step has p-norm :math:`\eta`, however small the gradient. "rms": its root mean
        square over the parameters is :math:`\eta`, so that one rate suits every p and every size.
    momentum : float, default=0.0
        Factor, in [0, 1), of the running sum of gradients that replaces g, as in torch's SGD.
    norm_over : {"all", "tensor"}, default="all"
        "all" takes the norm over all parameters of all groups together, as one vector: p = 1 then
        moves one coordinate of one tensor. "tensor" takes it over each tensor alone.
    newton_schulz_steps : int or None, default=None
        For p = "spectral": None computes the steepest direction; a number approximates it by so
        many steps of the Newton-Schulz iteration in bfloat16, as `torch.optim.Muon` does by 5.

    Raises
    ------
    ValueError
        If a parameter is out of range, or a group sets one that holds for all groups, as all but
        `lr` and `momentum` do.

    Notes
    -----
    For p = 2, unnormalised, a step equals that of `torch.optim.SGD`. Where the steepest direction
    is not unique the symmetric one is taken: zero for zero entries (p = inf), equal weight on tied
    coordinates (p = 1), zero on the null space of a matrix ("spectral").

    The spectral norm sees a tensor of two or more dimensions as the matrix of its first dimension
    against all others, and a vector as a matrix of one column, whose spectral norm is the Euclidean
    one. With the singular value decomposition :math:`G = U S V^\top` the direction of a matrix is
    :math:`U V^\top` over the positive singular values, and its dual norm is the sum of these. Over
    all tensors together the norm is the largest of theirs: each then moves in its own direction,
    and the dual norm is the sum of the dual norms. Normalised steps with `newton_schulz_steps=5`
    are those of `torch.optim.Muon` without Nesterov momentum, weight decay and its factor for the
    shape.

    References
    ----------
    Tsilivis, Frank, Srebro, Kempe, "The Price of Implicit Bias in Adversarially Robust
    Generalization", NeurIPS 2024, section 4. Jordan et al., "Muon: an optimizer for hidden layers
    in neural networks", 2024 (the Newton-Schulz iteration).

    Examples
    --------
    >>> import torch
    >>> from sklearn_robust.neural_network import SteepestDescent
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = SteepestDescent([w], lr=0.5, p=float("inf"), normalized=True)
    >>> (w[0] ** 2 - 0.1 * w[1]).backward()
    >>> optimizer.step()
    >>> w.tolist()
    [0.5, 1.5]
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        p: float | str = 2.0,
        *,
        normalized: bool | str = False,
        momentum: float = 0.0,
        norm_over: str = "all",
        newton_schulz_steps: int | None = None,
    ) -> None:
        self.p = check_geometry(p, "p")
        check_choice(normalized, "normalized", (True, False, "rms"))
        check_choice(norm_over, "norm_over", ("all", "tensor"))
        if newton_schulz_steps is not None:
            check_number(newton_schulz_steps, "newton_schulz_steps", low=1, integer=True)
            if self.p != "spectral":
                raise ValueError(
                    f"newton_schulz_steps={newton_schulz_steps} approximates the steepest "
                    f'direction for p="spectral", got p={p!r}. Use newton_schulz_steps=None.'
                )
        self.normalized = normalized
        self.norm_over = norm_over
        self.newton_schulz_steps = newton_schulz_steps
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters.

        Parameters
        ----------
        param_group : dict
            "params", and "lr" and "momentum" where they are the group's own.
        """
        common = {"p", "normalized", "norm_over", "newton_schulz_steps"} & set(param_group)
        if common:
            raise ValueError(
                f"A parameter group sets {sorted(common)}, which hold for all groups. Pass them to "
                f"SteepestDescent."
            )
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        check_number(group["lr"], "lr", low=0, strict=True)
        check_number(group["momentum"], "momentum", low=0)
        if group["momentum"] >= 1:
            raise ValueError(f"momentum must be a number in [0, 1), got {group['momentum']!r}.")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Parameters
        ----------
        closure : callable, optional
            Re-evaluates the model and returns the loss.

        Returns
        -------
        Any
            What the closure returns, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [
            (parameter, group["lr"], self._with_momentum(parameter, group["momentum"]))
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        gradients = [gradient for *_, gradient in moved]
        parts = [[g] for g in gradients] if self.norm_over == "tensor" else [gradients]
        steps = [step for part in parts if part for step in self._steps(part)]
        for (parameter, lr, _), (direction, length) in zip(moved, steps, strict=True):
            parameter.add_(direction, alpha=-lr * length)
        return loss

    def _with_momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient: Tensor = parameter.grad  # type: ignore[assignment]
        if gradient.is_sparse:
            raise ValueError(
                "SteepestDescent needs dense gradients; use sparse=False in the embedding that "
                "made this one."
            )
        if momentum == 0:
            return gradient
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = gradient.clone()
        else:
            state["momentum_buffer"].mul_(momentum).add_(gradient)
        return state["momentum_buffer"]

    def _steps(self, gradients: list[Tensor]) -> list[tuple[Tensor, float]]:
        """Directions in the shapes of the gradients, and the factor s of each; the norm is taken
        over all of them together.
        """
        if self.p == 2:  # the gradients themselves are the directions, up to their length
            directions = gradients
            factor = _inverse(euclidean(gradients)) if self.normalized else 1.0
        else:
            directions, dual = self._directions(gradients)
            factor = dual if self.normalized is False else 1.0
            length = euclidean(directions) if self.normalized == "rms" else 1.0
            factor *= _inverse(length)
        if self.normalized == "rms":
            factor *= math.sqrt(sum(g.numel() for g in gradients))
        return [(direction, factor) for direction in directions]

    def _directions(self, gradients: list[Tensor]) -> tuple[list[Tensor], float]:
        """Steepest directions in the unit ball, and the dual norm, which is 1 where steps do not
        need it.
        """
        if self.p == "spectral":
            polar = [self._polar(g) for g in gradients]
            return [direction for direction, _ in polar], sum(dual for _, dual in polar)
        norm = LpNorm(float(self.p))
        if self.p == math.inf:
            directions = [g.sign() for g in gradients]
        else:
            flat = torch.cat([g.flatten() for g in gradients])
            parts = norm.steepest_direction(flat).split([g.numel() for g in gradients])
            directions = [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
        if self.normalized:
            return directions, 1.0
        # <u, g> = ||g||_p*
        return directions, float(
            sum(torch.sum(u * g) for u, g in zip(directions, gradients, strict=True))
        )

    def _polar(self, gradient: Tensor) -> tuple[Tensor, float]:
        """The direction of one tensor in the spectral norm, and the sum of its singular values."""
        matrix = gradient.reshape(len(gradient), -1) if gradient.ndim > 1 else gradient.view(-1, 1)
        if self.newton_schulz_steps is None:
            direction, dual = polar_factor(matrix)
        else:
            direction = newton_schulz(matrix, self.newton_schulz_steps)
            dual = 1.0 if self.normalized else float(torch.sum(direction * matrix))
        return direction.view_as(gradient), dual


def check_geometry(p: Any, name: str) -> float | str:
    """An exponent in [1, inf], or "spectral"."""
    if not isinstance(p, str):
        return check_exponent(p, name)
    if p != "spectral":
        raise ValueError(f"{name} must be a real number in [1, inf] or 'spectral', got {p!r}.")
    return p


def euclidean(tensors: list[Tensor]) -> float:
    """The Euclidean length of all entries together."""
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors))))


def _inverse(length: float) -> float:
    """1 / length, and 0 where nothing moves."""
    return 1 / length if length > 0 else 0.0


def polar_factor(matrix: Tensor) -> tuple[Tensor, float]:
    r"""The matrix :math:`U V^\top` of the singular value decomposition :math:`G = U S V^\top` over
    the positive singular values, and the sum of these.

    It is :math:`(G G^\top)^{-1/2} G` on the range of G, from the eigenvectors of the smaller of the
    two Gram matrices in double precision, which takes half the time of a decomposition. Singular
    values below 1e-7 of the largest count as zero: they are rounding.
    """
    if matrix.shape[0] > matrix.shape[1]:
        factor, dual = polar_factor(matrix.T)
        return factor.T, dual
    if not bool(torch.isfinite(matrix).all()):
        return torch.full_like(matrix, math.nan), math.nan
    largest = matrix.abs().amax().double().clamp(min=torch.finfo(torch.float64).tiny)
    scaled = matrix.double() / largest
    squares, vectors = torch.linalg.eigh(scaled @ scaled.T)
    values = squares.clamp(min=0).sqrt()
    kept = values > 1e-7 * values[-1]
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
    factor = (vectors * inverse) @ (vectors.T @ scaled)
    return factor.to(matrix), float(values.sum() * largest)


def newton_schulz(matrix: Tensor, n_steps: int) -> Tensor:
    """An approximation of the polar factor, with singular values near 1, in bfloat16."""
    a, b, c = _NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix.bfloat16() if wide else matrix.bfloat16().T
    x = x / x.norm().clamp(min=_LEAST_LENGTH)
    for _ in range(n_steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix)
