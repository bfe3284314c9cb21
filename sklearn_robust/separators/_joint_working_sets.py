r"""Max-margin forms of several classes with many samples, by a sequence of smaller programs.

Few pairs of a sample and a rival carry weight at a solution. The program is solved on a set of
pairs that is likely to hold them, and those that its answer violates are added, until there are
none.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sklearn_robust.separators._joint_margin_form import Chosen, JointMarginForm
from sklearn_robust.separators._joint_program import JointPoint, JointProgram

# pairs of a sample and a rival from which sets pay, and how many there are then for each coordinate
# of a difference of classes: those are the cost that a smaller program keeps
_LARGE = 3000
_TALL_RATIO = 2
_MAX_ROUNDS = 30
_GROWTH = 0.5  # share of the set that is added at most
_VIOLATED = 1e-9  # lack of margin, relative to the largest score, from which on a pair is added


def suits_sets(form: JointMarginForm) -> bool:
    """Whether there are many pairs of a sample and a rival beside the differences of classes."""
    (n, d), K = form.X.shape, form.n_classes
    n_pairs = n * (K - 1)
    return n_pairs >= _LARGE and n_pairs > _TALL_RATIO * d * K * (K - 1) // 2


def points_on_sets(form: JointMarginForm) -> Iterator[JointPoint]:
    """The points of the program of the last set; see `JointProgram.points`.

    Raises
    ------
    SolverFailure
    """
    chosen = _first_pairs(form)
    largest = np.abs(form.X).max()
    for _ in range(_MAX_ROUNDS):
        points = JointProgram.of(form, chosen).points()
        point = next(points)
        margins = form.margins(point.coef, point.intercept)
        allowed = margins[chosen].min() - _VIOLATED * largest * np.abs(point.coef).max()
        violated = np.flatnonzero(np.where(chosen, np.inf, margins) < allowed)
        if not len(violated):
            break
        worst = violated[np.argsort(margins.ravel()[violated])]
        chosen.ravel()[worst[: int(_GROWTH * chosen.sum()) + 1]] = True
    yield point
    yield from points


def _first_pairs(form: JointMarginForm) -> Chosen:
    """The pairs (K, n) of least margin under the class means, alike many of every two classes."""
    d, K = form.X.shape[1], form.n_classes
    normal = form.at_mean_margin().normal
    assert normal is not None
    margins = form.margins(normal, np.zeros(K))
    chosen = np.zeros(margins.shape, dtype=bool)
    count = max(2, 2 * d // K)
    for c in range(K):
        members = np.flatnonzero(form.y == c)
        for k in range(K):
            if k != c:
                least = np.argsort(margins[k, members])[:count]
                chosen[k, members[least]] = True
    return chosen
