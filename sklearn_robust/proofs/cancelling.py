"""Weights that cancel features exactly: those out of the adversary's reach, all where eps = 0.

A proof of non-separability needs G = 0 in these features. Weights in floating point have G near 0;
a rational change of a few of them, the solution of linear equations in exact arithmetic, makes it
0.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from scipy.linalg import qr

from sklearn_robust.proofs.weights import ExactWeights, in_units

_MOST = 80  # equations, whose exact solution takes the third power of their number
_REPEATED = 1e-9  # pivot, relative to the largest, up to which an equation repeats others
_SPARE = 60  # binary places by which the new weights are as large as the old


def cancelled(
    weights: ExactWeights, features: np.ndarray, fit_intercept: bool
) -> ExactWeights | None:
    """Weights near these whose G is exactly 0 in the features; None where none are found."""
    entries, K = list(weights.entries), len(weights.data.classes)
    columns = np.append(features, -1) if fit_intercept else features
    if not len(features):
        return weights
    if len(columns) * (K - 1) > _MOST:
        return None
    terms = _terms(weights, entries, columns)
    sizes = np.array([weights.entries[entry] for entry in entries], dtype=object)
    lack = -(terms @ sizes)
    shares = (sizes / max(sizes)).astype(np.float64)
    floats = (terms / 2**weights.places).astype(np.float64) * shares
    largest = np.abs(floats).max()
    if not 0 < largest < math.inf:
        return weights if not lack.any() else None
    _, triangle, order = qr(floats / largest, mode="economic", pivoting=True)
    diagonal = np.abs(np.diag(triangle))
    rank = int(np.sum(diagonal > _REPEATED * diagonal[0]))
    moved = order[:rank]
    rows = qr(floats[:, moved].T, mode="r", pivoting=True)[1][:rank]
    changes = _solution(terms[np.ix_(rows, moved)], lack[rows])
    if changes is None:
        return None
    # integers again: over the common denominator, and scaled back to about the old size
    below = math.lcm(*(x.denominator for x in changes))
    places = below.bit_length() + _SPARE
    factor = 2**places // below
    exact = sizes * below
    for at, change in zip(moved, changes, strict=True):
        exact[at] += int(change * below)
    if not all(x > 0 for x in exact):
        return None
    scaled = {entry: int(x) * factor for entry, x in zip(entries, exact, strict=True)}
    return ExactWeights(weights.data, scaled, weights.places + places)


def _terms(
    weights: ExactWeights, entries: list[tuple[int, int]], columns: np.ndarray
) -> np.ndarray:
    """What each weight adds to G of the classes but the first in these columns, object integers;
    the column -1 is 1, whose sum is the balance of a class.
    """
    data, K = weights.data, len(weights.data.classes)
    extended = np.column_stack([data.X, np.ones(len(data.X))])[:, columns]
    rows = in_units(extended, weights.places)
    terms = np.zeros((K - 1, len(columns), len(entries)), dtype=object)
    for at, (i, k) in enumerate(entries):
        for group, sign in ((data.y[i], 1), (k, -1)):
            if group > 0:
                terms[group - 1, :, at] += sign * rows[i]
    return terms.reshape((K - 1) * len(columns), len(entries))


def _solution(matrix: np.ndarray, goal: np.ndarray) -> list[Fraction] | None:
    """The exact solution of square linear equations in integers, by elimination; None where the
    matrix is singular.
    """
    n = len(goal)
    rows = [[Fraction(int(x)) for x in (*row, end)] for row, end in zip(matrix, goal, strict=True)]
    for j in range(n):
        pivot = next((i for i in range(j, n) if rows[i][j]), None)
        if pivot is None:
            return None
        rows[j], rows[pivot] = rows[pivot], rows[j]
        for i in range(j + 1, n):
            ratio = rows[i][j] / rows[j][j]
            if ratio:
                rows[i] = [x - ratio * y for x, y in zip(rows[i], rows[j], strict=True)]
    found = [Fraction(0)] * n
    for j in reversed(range(n)):
        known = sum((rows[j][k] * found[k] for k in range(j + 1, n)), Fraction(0))
        found[j] = (rows[j][n] - known) / rows[j][j]
    return found
