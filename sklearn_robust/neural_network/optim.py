"""Steepest descent in any l_p geometry, as a torch optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sklearn_robust._parameters import check_choice, check_exponent, check_number
from sklearn_robust.norms import LpNorm


class SteepestDescent(torch.optim.Optimizer):
    r"""Steepest descent in the geometry of the p-norm over the parameters.

    With g the gradient over all parameters and p* the dual exponent, one step is

    .. math::
        \theta \leftarrow \theta - \eta \, s \, u, \qquad u \in \arg\max_{\|u\|_p \le 1} \langle u,
        g \rangle, \qquad s = \|g\|_{p^*} \text{ (or 1 if normalized)}.

    p = 2 is gradient descent, p = inf sign descent, p = 1 greedy coordinate descent.

    Parameters
    ----------
    params : iterable of tensors or of dicts
        Parameters, or parameter groups; a group may set its own `lr` and `momentum`.
    lr : float
        Step size :math:`\eta`, > 0.
    p : float, default=2
        Exponent of the norm, in [1, inf].
    normalized : bool, default=False
        Whether every step has p-norm :math:`\eta`, however small the gradient.
    momentum : float, default=0.0
        Factor, in [0, 1), of the running sum of gradients that replaces g, as in torch's SGD.
    norm_over : {"all", "tensor"}, default="all"
        "all" takes the norm over all parameters of all groups together, as one vector: p = 1 then
        moves one coordinate of one tensor. "tensor" takes it over each tensor alone.

    Raises
    ------
    ValueError
        If a parameter is out of range, or a group sets `p`, `normalized` or `norm_over`, which hold
        for all groups.

    Notes
    -----
    For p = 2, unnormalised, a step equals that of `torch.optim.SGD`. Where the steepest direction
    is not unique the symmetric one is taken: zero for zero entries (p = inf), equal weight on tied
    coordinates (p = 1).

    References
    ----------
    Tsilivis, Frank, Srebro, Kempe, "The Price of Implicit Bias in Adversarially Robust
    Generalization", NeurIPS 2024, section 4.

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
        p: float = 2.0,
        *,
        normalized: bool = False,
        momentum: float = 0.0,
        norm_over: str = "all",
    ) -> None:
        self.p = check_exponent(p, "p")
        check_choice(normalized, "normalized", (True, False))
        check_choice(norm_over, "norm_over", ("all", "tensor"))
        self.normalized = normalized
        self.norm_over = norm_over
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters.

        Parameters
        ----------
        param_group : dict
            "params", and "lr" and "momentum" where they are the group's own.
        """
        common = {"p", "normalized", "norm_over"} & set(param_group)
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
        for (parameter, lr, _), direction in zip(
            moved, self._directions([g for *_, g in moved]), strict=True
        ):
            parameter.add_(direction, alpha=-lr)
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

    def _directions(self, gradients: list[Tensor]) -> list[Tensor]:
        """Steepest directions, scaled by the dual norm of the gradient unless normalised, in the
        shapes of the gradients.
        """
        if self.p == 2 and not self.normalized:
            return gradients
        if (
            self.norm_over == "tensor"
            or len(gradients) <= 1
            or (self.p == math.inf and self.normalized)
        ):
            return [self._steepest(g.flatten()).view_as(g) for g in gradients]
        joint = self._steepest(torch.cat([g.flatten() for g in gradients]))
        parts = joint.split([g.numel() for g in gradients])
        return [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]

    def _steepest(self, gradient: Tensor) -> Tensor:
        if self.p == math.inf and self.normalized:
            return gradient.sign()
        norm = LpNorm(self.p)
        direction: Tensor = norm.steepest_direction(gradient)
        return direction if self.normalized else direction * norm.dual.value(gradient)
