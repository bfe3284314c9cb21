r"""The exact worst case of a ReLU network over a polytope, by a mixed-integer linear program.

The units whose sign is fixed over the region are linear and cost nothing. Each other unit :math:`a
= \max(h, 0)`, :math:`l \le h \le u`, gets a binary z that says whether it is active:

.. math:: a \ge h, \quad a \ge 0, \quad a \le h - l (1 - z), \quad a \le u z.

A unit of the last hidden layer that the objective pushes down needs none: the least a is max(h, 0)
anyway.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import optimize, sparse
from torch import Tensor

from sklearn_robust._interrupts import interruptible
from sklearn_robust.regions import Region
from sklearn_robust.verification.bounds import Bounds
from sklearn_robust.verification.layers import Affine, Layer, ReLU

_OPTIMAL = 0  # scipy.optimize.milp's status


def exact_margins(
    layers: list[Layer],
    bounds: Bounds,
    region: Region,
    coef: Tensor,
    known: Tensor,
    time_limit: float,
) -> tuple[Tensor, int]:
    """The least of the linear functions <c, f(x')> over each region.

    Parameters
    ----------
    layers : list of Affine and ReLU
    bounds : pairs of tensors
        Ends of the input of each layer; the tighter, the fewer binaries.
    region : Region
        With q = inf or q = 1.
    coef : tensor of shape (n, s, K)
    known : tensor of shape (n, s)
        Lower bounds on each function, which the result never falls below.
    time_limit : float
        Seconds for each sample.

    Returns
    -------
    minimum : tensor of shape (n,)
        Where the time did not suffice, the lower bound that was proved.
    unfinished : int
        Number of samples where it did not.
    """
    matrices = [_matrix(layer, lower) for layer, (lower, _) in zip(layers, bounds, strict=True)]
    known_arrays, coefs = known.cpu().numpy(), coef.cpu().numpy()
    minimum, solved = [], []
    for i in range(len(coefs)):
        program = _encode(
            matrices, [(_flat(lower[i]), _flat(upper[i])) for lower, upper in bounds], region, i
        )
        value, done = program.minimum(coefs[i], known_arrays[i], time_limit)
        minimum.append(value)
        solved.append(done)
    return known.new_tensor(minimum), len(solved) - sum(solved)


@dataclass
class _Program:
    """Outputs f = A v + b of variables v that are boxed, partly binary, and obey linear
    inequalities.
    """

    outputs: np.ndarray
    offset: np.ndarray
    box: optimize.Bounds
    binary: np.ndarray
    # the columns of value and binary of the last hidden layer's undecided units, (2, k)
    last: np.ndarray
    constraints: list[optimize.LinearConstraint]

    def minimum(
        self, coefs: np.ndarray, known: np.ndarray, time_limit: float
    ) -> tuple[float, bool]:
        """The least of the functions <c, f>, or what is proved of it; functions known to lie above
        the least are left out.
        """
        deadline = time.monotonic() + time_limit
        proved, done = known.copy(), True
        smallest = np.inf
        for k in np.argsort(known):
            if known[k] >= smallest:
                break
            cost, binary = coefs[k] @ self.outputs, self.binary.copy()
            binary[self.last[1]] = cost[self.last[0]] < 0
            result = self._solved_by_highs(cost, binary, max(deadline - time.monotonic(), 1e-3))
            bound = result.mip_dual_bound if binary.any() else result.fun
            if bound is not None:
                proved[k] = max(known[k], bound + coefs[k] @ self.offset)
            done = done and result.status == _OPTIMAL
            smallest = min(smallest, proved[k])
        return float(smallest), done

    def _solved_by_highs(self, cost: np.ndarray, binary: np.ndarray, time_limit: float) -> Any:
        """SciPy's result."""
        program = {"integrality": binary, "bounds": self.box, "constraints": self.constraints}
        options = {"time_limit": time_limit, "mip_rel_gap": 0}
        return interruptible(lambda _: optimize.milp(cost, **program, options=options))


def _encode(
    matrices: list, bounds: list[tuple[np.ndarray, np.ndarray]], region: Region, i: int
) -> _Program:
    """The network on the region of sample i. Each layer's input is h v + h0, for the variables v of
    the program.

    The variables are the move of the input (q = 1: its positive and negative parts), then value and
    binary of each undecided unit.
    """
    x = _flat(region.x[i])
    move_low, move_high = bounds[0][0] - x, bounds[0][1] - x
    undecided = [
        np.flatnonzero((lower < 0) & (upper > 0)) if matrix is None else np.empty(0, int)
        for matrix, (lower, upper) in zip(matrices, bounds, strict=True)
    ]
    is_box = region.norm.p == np.inf
    parts = 1 if is_box else 2
    n_moves = parts * len(x)
    n_variables = n_moves + 2 * sum(map(len, undecided))
    low, binary = np.zeros(n_variables), np.zeros(n_variables)
    high = np.ones(n_variables)
    h, h0 = np.eye(len(x), n_variables), x
    constraints = []
    if is_box:
        low[:n_moves], high[:n_moves] = move_low, move_high
    else:
        h[:, len(x) : n_moves] = -np.eye(len(x))
        high[:n_moves] = np.concatenate([move_high, -move_low])
        scale = np.ones(len(x)) if region.scale is None else _flat(region.scale)
        # the unit of the constraint, whose tolerance is then that of the widest move
        largest = scale.max()
        length = np.zeros(n_variables)
        length[:n_moves] = np.tile(
            np.divide(largest, scale, out=np.zeros_like(scale), where=scale > 0), 2
        )
        constraints.append(
            optimize.LinearConstraint(
                length, -np.inf, largest * float(region.rows(slice(i, i + 1)).eps)
            )
        )
    column, last = n_moves, np.empty((2, 0), int)
    for matrix, (lower, upper), units in zip(matrices, bounds, undecided, strict=True):
        if matrix is not None:
            h, h0 = matrix[0] @ h, matrix[0] @ h0 + matrix[1]
            continue
        value, switch = np.eye(2 * len(units), n_variables, k=column).reshape(
            2, len(units), n_variables
        )
        lowest, highest = lower[units], upper[units]
        for rows, most in (
            (h[units] - value, -h0[units]),  # a >= h
            (value - h[units] - lowest[:, None] * switch, h0[units] - lowest),  # a <= h - l (1 - z)
            (value - highest[:, None] * switch, np.zeros(len(units))),  # a <= u z
        ):
            constraints.append(optimize.LinearConstraint(sparse.csr_array(rows), -np.inf, most))
        last = np.arange(column, column + 2 * len(units)).reshape(2, len(units))
        high[last[0]], binary[last[1]] = highest, 1
        column += last.size
        active = lower >= 0
        h, h0 = h * active[:, None], h0 * active
        h[units] = value
    return _Program(h, h0, optimize.Bounds(low, high), binary, last, constraints)


def _matrix(layer: Layer, lower: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
    """A and b of an affine layer on flat inputs; None for a ReLU."""
    if isinstance(layer, ReLU):
        return None
    if not isinstance(layer, Affine):
        raise TypeError("method='exact' supports no MaxPool2d. Use method='crown'.")
    outputs = layer(torch.zeros_like(lower[:1]))
    identity = torch.eye(outputs.numel(), dtype=lower.dtype, device=lower.device).view(
        1, -1, *outputs.shape[1:]
    )
    rows, _ = layer.backward(identity, identity.new_zeros(1, 1), lower, lower)
    return rows[0].flatten(1).cpu().numpy(), _flat(outputs)


def _flat(x: Tensor) -> np.ndarray:
    return x.cpu().numpy().ravel()
