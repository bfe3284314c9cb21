r"""The margins of all pairs of a sample and a rival class as rows of a cone program, against any
sets in cones, and the perturbations that its multipliers name.

With :math:`v = w_k - w_{y_i}` the pair (i, k) loses :math:`\sigma_i(v)`. A group of pairs
(`_pair_groups`) has one set at radii r, or a box for each sample. It adds columns:

=====  ===========================================================================================
cones  :math:`E^T \lambda = v`, :math:`F^T \lambda = 0`, :math:`\lambda \in K^*`,
       :math:`t \ge h \cdot \lambda`: then :math:`t \ge \sigma(v)`, and the pair loses r t. From the
       multipliers :math:`\nu, \tau` of the first and the last row, :math:`\delta = r \nu / \tau`
boxes  :math:`\lambda^+ - \lambda^- = v`, :math:`\lambda^\pm \ge 0`: the pair of sample i loses
       :math:`\text{upper}_i \cdot \lambda^+ - \text{lower}_i \cdot \lambda^-`. One group serves the
       boxes of all samples of class l; from the multiplier :math:`\nu` of the row, the share of the
       way from lower to upper that all of them go
=====  ===========================================================================================

What is returned is in its set up to rounding, whatever the error of the program: it moves into the
interior, or along the box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from sklearn_robust._clarabel import Cone
from sklearn_robust._conic_programs import (
    ConicProgram,
    Vector,
    score_differences,
    unit_differences,
    unit_rows,
)
from sklearn_robust._joint_sets import JointSets
from sklearn_robust._pair_groups import (
    BoxGroup,
    ConeGroup,
    far_points,
    groups_of,
    points_of_boxes,
)
from sklearn_robust.joint import JointProblem
from sklearn_robust.rows import require_array

# entries of the arrays over pairs of a sample and a rival, and features, that a program may have:
# with ten classes of 64 features 60 samples of them took over ten seconds
MOST_ENTRIES = 1_000_000
# sets of samples, against each other class, that a program may have: some minutes
_MOST_GROUPS = 10_000


class PairProgram:
    """The columns and rows of the margins of all pairs, or of the chosen ones (K, n), to which a
    user adds an objective.

    Attributes
    ----------
    problem : JointProblem
        Without samples of weight zero, in float64.
    conic : ConicProgram
    w : slice
        The columns of W, row by row, in units of the rows.
    terms : list of (slice, matrix)
        The margins are the sum of matrix x[slice].
    samples, rivals : ndarray of shape (N,)
        Those of each pair, sample by sample.
    """

    def __init__(self, problem: JointProblem, chosen: np.ndarray | None = None) -> None:
        used = np.flatnonzero(problem.log_weight > -math.inf)
        self.problem = on_samples(problem, used)
        (n, self.d), K = self.problem.X.shape, problem.n_classes
        pairs = np.arange(K) != self.problem.y[:, None]
        if chosen is not None:
            pairs &= chosen.T[used]
        self.samples, self.rivals = np.nonzero(pairs)
        self.n_pairs = len(self.samples)
        if self.n_pairs * self.d > MOST_ENTRIES:
            raise ValueError(
                f"Sets that differ from sample to sample are in one cone program of all pairs of a "
                f"sample and another class, of {MOST_ENTRIES} entries at most, and these data "
                f"have {n} samples, {K} classes and {self.d} features: train on fewer samples, or "
                f"against one symmetric set, such as an LpBall, and score against this threat."
            )
        rows = require_array(self.problem.rows, "A cone program of pairs")
        X, self.unit = rows.standardised(centred=problem.fit_intercept)
        # the place of each sample and rival among the pairs
        self._place = np.cumsum(pairs.ravel()).reshape(pairs.shape) - 1
        classes = self.problem.y[self.samples]
        conic = self.conic = ConicProgram()
        self.w = conic.columns.take(K * self.d)
        self.terms: list[tuple[slice, Any]] = [
            (self.w, score_differences(X, self.samples, classes, self.rivals, K))
        ]
        if problem.fit_intercept:  # that of class 0 is 0
            shift = unit_differences(classes, self.rivals, K)[:, 1:]
            self.terms.append((conic.columns.take(K - 1), shift))
        self.groups: list[ConeGroup] = []
        self.boxes: list[BoxGroup] = []
        assert isinstance(problem.adversary, JointSets)
        for group in groups_of(self.problem, pairs):
            if isinstance(group, BoxGroup):
                self.boxes.append(group)
                continue
            self.groups.append(group)
            if len(self.groups) > _MOST_GROUPS:
                raise ValueError(
                    f"Training against threat={type(problem.threat).__name__} holds each set that "
                    f"samples have, against each other class, in one cone program, at most "
                    f"{_MOST_GROUPS}, and these data have more: train on fewer samples, or "
                    f"against a larger set that samples share, such as a Box or an LpBall without "
                    f"clip, and score against this one."
                )
        if self.groups:
            self._add_cones()
        self._level = self._levelled()
        self._of_boxes = [self._add_boxes(group) for group in self.boxes]
        self._of_level = self._add_level()

    # -- columns

    def _differences(self, columns: Sequence[np.ndarray], ends: Sequence[tuple[int, int]]) -> Any:
        """The rows that take w_k - w_l on some columns, for each (l, k), from W."""
        low, high = (np.repeat(end, [len(at) for at in columns]) for end in zip(*ends, strict=True))
        at, width = np.concatenate(columns), self.problem.n_classes * self.d
        return unit_differences(high * self.d + at, low * self.d + at, width)

    def _add_cones(self) -> None:
        """The columns and rows of the groups in cones."""
        conic, groups = self.conic, self.groups
        sets, m = [group.set for group in groups], len(groups)
        reach = np.array([float(group.radius.max()) for group in groups]) / self.unit
        dual = conic.columns.take(sum(len(one.h) for one in sets))
        t = conic.columns.take(m)
        # in units in which the columns of the margins are of order 1
        v = self._differences(
            [one.columns for one in sets], [(group.low, group.high) for group in groups]
        )
        scale = sparse.diags_array(np.repeat(reach, [len(one.columns) for one in sets]))
        E = sparse.block_diag([one.E for one in sets], format="csr")
        F = sparse.block_diag([one.F for one in sets], format="csr")
        h = sparse.block_diag([sparse.csr_array(one.h[:, None]) for one in sets], format="csr")
        none = np.zeros
        self._of_E = conic.add_rows(
            [("zero", E.shape[1])], [(dual, E.T), (self.w, -scale @ v)], none(E.shape[1])
        )
        self._of_F = conic.add_rows([("zero", F.shape[1])], [(dual, F.T)], none(F.shape[1]))
        self._of_h = conic.add_rows(
            [("nonnegative", m)], [(t, sparse.eye_array(m)), (dual, -h.T)], none(m)
        )
        free: list[np.ndarray] = []
        cones: list[Cone] = []  # the rows that are not in a zero cone, whose multipliers are free
        start = 0
        for kind, size in [cone for one in sets for cone in one.cones]:
            if kind != "zero" and size:
                free.append(np.arange(start, start + size))
                cones.append((kind, size))
            start += size
        if free:
            pick = unit_rows(np.concatenate(free), dual.stop - dual.start)
            conic.add_rows(cones, [(dual, pick)], none(pick.shape[0]))
        places = [self._place[group.samples, group.high] for group in groups]
        columns = np.repeat(np.arange(m), [len(at) for at in places])
        share = np.concatenate([group.radius / group.radius.max() for group in groups])
        taken = sparse.csr_array(
            (share, (np.concatenate(places), columns)), shape=(self.n_pairs, m)
        )
        self.terms.append((t, -taken))

    def _add_boxes(self, group: BoxGroup) -> tuple[slice, np.ndarray]:
        """The columns and rows of one group of boxes; its row of v, and the features in it."""
        conic = self.conic
        moves = np.flatnonzero(
            ((group.lower < 0).any(axis=0) | (group.upper > 0).any(axis=0))
            & ~self._level[:, group.low, group.high]
        )
        m = len(moves)
        place = self._place[group.samples, group.high]
        spread = unit_rows(place, self.n_pairs).T
        terms: list[tuple[slice, Any]] = [
            (self.w, -self._differences([moves], [(group.low, group.high)]))
        ]
        for sign, end in ((1.0, group.upper[:, moves]), (-1.0, -group.lower[:, moves])):
            finite = np.flatnonzero(np.isfinite(end).all(axis=0))
            part = conic.columns.take(len(finite))
            conic.add_rows(
                [("nonnegative", len(finite))],
                [(part, sparse.eye_array(len(finite)))],
                np.zeros(len(finite)),
            )
            terms.append((part, sign * unit_rows(finite, m).T))
            self.terms.append((part, -(spread @ sparse.csr_array(end[:, finite] / self.unit))))
        return conic.add_rows([("zero", m)], terms, np.zeros(m)), moves

    def _levelled(self) -> Any:
        """Whether boxes without end hold two classes equal in a feature, from both sides, and one
        of these has a box without end: (d, K, K).
        """
        K = self.problem.n_classes
        below = np.zeros((self.d, K, K), dtype=bool)  # w_high <= w_low, or w_low <= w_high
        for group in self.boxes:
            up, down = group.endless
            below[:, group.high, group.low] |= up
            below[:, group.low, group.high] |= down
        level = np.zeros_like(below)
        for j in np.flatnonzero(below.any(axis=(1, 2))).tolist():
            joined = connected_components(sparse.csr_array(below[j]), connection="strong")[1]
            level[j] = (joined[:, None] == joined) & (below[j] | below[j].T)
        return level

    def _add_level(self) -> list[tuple[int, int, np.ndarray, slice]]:
        """The equations of such classes, in place of two bounds that leave no interior: the
        classes, the features and their rows.
        """
        found = []
        for low, high in zip(*self.problem.pairs, strict=True):
            features = np.flatnonzero(self._level[:, low, high])
            if len(features):
                rows = self._differences([features], [(low, high)])
                nothing = np.zeros(len(features))
                at = self.conic.add_rows([("zero", len(features))], [(self.w, rows)], nothing)
                found.append((int(low), int(high), features, at))
        return found

    def _level_flows(self, z: Vector, weights: Vector) -> Iterator[tuple[int, np.ndarray]]:
        r"""What the perturbations of the pairs sum to in each feature in which classes are held
        equal, D (K, K) antisymmetric.

        The multipliers of the equations name a flow between the classes, of which only the sums at
        the classes are determined: D has the same, and is least in :math:`\sum D_{lk}^2 / A_{lk}`,
        A the weights of the pairs.
        """
        K = self.problem.n_classes
        sums = np.zeros((self.d, K))
        for low, high, features, rows in self._of_level:
            flow = -z[rows] * self.unit
            sums[features, low] += flow
            sums[features, high] -= flow
        pairs = self.problem.pair_weights(weights)
        for j in np.flatnonzero(self._level.any(axis=(1, 2))).tolist():
            A = np.where(self._level[j], pairs, 0.0)
            u = np.linalg.pinv(np.diag(A.sum(axis=1)) - A) @ sums[j]
            yield j, A * (u[:, None] - u)

    # -- answers

    def coef(self, x: Vector) -> Vector:
        """W of a solution, (K, d), in the units of the data."""
        return self._in_domain(x[self.w].reshape(self.problem.n_classes, self.d) / self.unit)

    def _in_domain(self, coef: Vector) -> Vector:
        """The coefficients, equal for classes of which the adversary forbids one order, going
        without limit, where rounding left them in this order.
        """
        for _ in range(self.problem.n_classes):  # each pass joins classes
            edges = np.zeros((self.d, len(coef), len(coef)), dtype=bool)
            for low, high, up, down in self._one_sided:
                v = coef[high] - coef[low]
                edges[:, low, high] |= (up & (v > 0)) | (down & (v < 0))
            features = np.flatnonzero(edges.any(axis=(1, 2)))
            if not len(features):
                break
            for j in features.tolist():
                n_joined, joined = connected_components(sparse.csr_array(edges[j]), directed=False)
                sums = np.bincount(joined, weights=coef[:, j], minlength=n_joined)
                coef[:, j] = (sums / np.bincount(joined))[joined]
        return coef

    @cached_property
    def _one_sided(self) -> list[tuple[int, int, Vector, Vector]]:
        """The l and k of groups with sets without end, and in which features w_k - w_l must not be
        positive, and not negative.
        """
        found = [(group.low, group.high, *group.set.endless) for group in self.groups]
        found += [(boxes.low, boxes.high, *boxes.endless) for boxes in self.boxes]
        return [one for one in found if one[2].any() or one[3].any()]

    def weights(self, of_pairs: Vector) -> Vector:
        """Weights (K, n) of the samples of the program, from those of the pairs (N,)."""
        weights = np.zeros((self.problem.n_classes, len(self.problem.y)))
        weights[self.rivals, self.samples] = np.maximum(of_pairs, 0)
        return weights

    def points(self, z: Vector) -> Iterator[tuple[Vector, Vector]]:
        """The point of the set of each group, over its size, that the multipliers name, and the s
        by which it is in it.
        """
        start, start_s = 0, 0
        for k, group in enumerate(self.groups):
            stop = start + len(group.set.columns)
            stop_s = start_s + group.set.F.shape[1]
            tau = float(z[self._of_h][k])
            if tau > 0:
                u, s = z[self._of_E][start:stop] / tau, z[self._of_F][start_s:stop_s] / tau
                yield group.set.point(u, s)
            else:
                yield group.set.inside
            start, start_s = stop, stop_s

    def perturbations(self, z: Vector, weights: Vector) -> Vector:
        """The perturbations (K, n, d) that the multipliers name, each in its set, from the weights
        (K, n).
        """
        delta = np.zeros((self.problem.n_classes, len(self.problem.y), self.d))
        for group, (u, _) in zip(self.groups, self.points(z), strict=True):
            delta[group.high, group.samples] = np.outer(group.radius, u)
        for boxes, (rows, moves) in zip(self.boxes, self._of_boxes, strict=True):
            total = z[rows] * self.unit
            of_pairs = weights[boxes.high, boxes.samples]
            delta[boxes.high, boxes.samples[:, None], moves] = points_of_boxes(
                total, of_pairs, boxes.lower[:, moves], boxes.upper[:, moves]
            )
        for j, D in self._level_flows(z, weights):
            for boxes in self.boxes:
                # those of low against high, or of high against low where these have no end
                total = D[boxes.low, boxes.high]
                if total == 0 or not boxes.endless[0 if total > 0 else 1][j]:
                    continue
                delta[boxes.high, boxes.samples, j] = far_points(
                    np.array([total]),
                    weights[boxes.high, boxes.samples],
                    boxes.lower[:, [j]],
                    boxes.upper[:, [j]],
                )[:, 0]
                D[boxes.low, boxes.high] = D[boxes.high, boxes.low] = 0.0
        return delta


def n_pair_entries(problem: JointProblem) -> int:
    """The entries of the arrays over pairs of a sample and a rival, and features."""
    n = int(np.count_nonzero(problem.log_weight > -math.inf))
    return n * (problem.n_classes - 1) * problem.n_features


def on_samples(problem: JointProblem, index: np.ndarray) -> JointProblem:
    """The joint problem of some samples, in float64."""
    problem = problem.in_double_arithmetic()
    X = problem.X[index].astype(np.float64)
    adversary = problem.adversary
    taken = adversary.take(index) if isinstance(adversary, JointSets) else adversary
    return replace(
        problem, X=X, y=problem.y[index], log_weight=problem.log_weight[index], adversary=taken
    )
