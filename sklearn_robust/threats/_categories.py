"""Categories: at most so many categorical features take another value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_robust._array_api import Array
from sklearn_robust.threats._budgets import are_largest, largest_sum
from sklearn_robust.threats._interface import ConicSet
from sklearn_robust.threats._members import call_of, positions
from sklearn_robust.threats._mixin import ThreatMixin


@dataclass(frozen=True, eq=False, repr=False)
class OneHot(ThreatMixin):
    r"""The threat that gives at most m categorical features another value, each a group of columns
    of which one is 1 and the others 0.

    A change of group g of sample x from its category c to k moves two columns, :math:`\delta_c =
    -1` and :math:`\delta_k = 1`. The set depends on the sample, and

    .. math:: \sigma_x(v) = \text{sum of the m largest } \max_k (v_k - v_c)_+ \text{ over groups,}

    exactly: its vertices are the samples that can be reached, and perturbed samples are one-hot.

    Parameters
    ----------
    groups : sequence of sequences of int or str
        The columns of each categorical feature, by position or name.
    n_changes : int, default=1
        The number m of features that may change at a time.
    transitions : dict {int: sequence of pairs (from, to)}, optional
        The changes that are allowed, for groups of which not all are: places in the group, None for
        the value that has no column.
    baseline : bool or sequence of bool, default=False
        Whether all zeros is a value too, as where the encoder drops a category: of all groups, or
        of each.

    Notes
    -----
    `certified_radius` counts the factor on the number of changes: the least number that changes the
    decision, over m. A sample of all zeros in a group without a baseline has an unknown value; it
    can take any, and none can turn into it.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_robust.threats import OneHot
    >>> threat = OneHot([[0, 1], [2, 3, 4]])
    >>> X = np.array([[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]])
    >>> v = np.array([0.0, 2.0, 0.0, 1.0, 5.0])
    >>> threat.at(X).support(v)
    array([2., 5.])
    >>> X + threat.at(X).worst(v)
    array([[0., 1., 0., 0., 1.],
           [0., 1., 0., 0., 1.]])

    The groups of a pipeline come from its encoder:

    >>> from sklearn.preprocessing import OneHotEncoder
    >>> encoder = OneHotEncoder().fit([["rent", "yes"], ["own", "no"], ["free", "no"]])
    >>> threat = OneHot.from_encoder(encoder, transitions={"x0": [("rent", "own")]})
    >>> threat.groups, threat.transitions
    ([[0, 1, 2], [3, 4]], {0: [(2, 1)]})
    """

    groups: Any
    n_changes: int = 1
    transitions: Any = None
    baseline: Any = False

    symmetric = convex = solid = False
    per_sample = True

    def __post_init__(self) -> None:
        groups = [list(group) for group in self.groups]
        members = [column for group in groups for column in group]
        if not groups or not all(groups) or len(set(members)) < len(members):
            raise ValueError(
                f"groups must hold the columns of each categorical feature, at least one, and no "
                f"column twice, got {self.groups!r}."
            )
        number = self.n_changes
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
            raise ValueError(
                f"n_changes must be an integer >= 0, the number of categorical features that may "
                f"change, got {number!r}."
            )
        baseline = self.baseline
        if not isinstance(baseline, bool) and len(baseline) != len(groups):
            raise ValueError(
                f"baseline must be a bool, or hold one for each of the {len(groups)} groups, got "
                f"{baseline!r}."
            )
        object.__setattr__(self, "groups", groups)
        self._allowed()  # refuses transitions that do not exist

    def __repr__(self) -> str:
        baseline = self.baseline if np.any(self.baseline) else None
        given = {"groups": self.groups, "n_changes": self.n_changes}
        return call_of(self, **given, transitions=self.transitions, baseline=baseline)

    @classmethod
    def from_encoder(
        cls,
        encoder: Any,
        n_changes: int = 1,
        *,
        transitions: Mapping[Any, Iterable[tuple[Any, Any]]] | None = None,
        features: Iterable[Any] | None = None,
    ) -> OneHot:
        """The groups of columns that a fitted encoder makes.

        Parameters
        ----------
        encoder : OneHotEncoder, ColumnTransformer or Pipeline
            Fitted. A column transformer with one-hot encoders, or pipelines that end in one, among
            its transformers; a pipeline that ends in either.
        n_changes : int, default=1
        transitions : dict {feature name: pairs of categories (from, to)}, optional
            The changes that are allowed, for features of which not all are.
        features : sequence of feature names, optional
            The features that may change; all that are encoded by default.

        Returns
        -------
        OneHot
            On the columns of the encoder's output.
        """
        encoded = list(_encoded(encoder, 0))
        if not encoded:
            raise ValueError(
                f"encoder must be a fitted OneHotEncoder, or a ColumnTransformer or Pipeline that "
                f"holds one, got {encoder!r}. Use OneHot(groups) for other encodings."
            )
        known = [one.name for one in encoded]
        chosen = known if features is None else list(features)
        unknown = [name for name in [*chosen, *(transitions or {})] if name not in known]
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is no feature that the encoder encodes: these are {known}."
            )
        encoded = [one for one in encoded if one.name in chosen]
        listed = {
            place: [tuple(one.place(value) for value in pair) for pair in transitions[one.name]]
            for place, one in enumerate(encoded)
            if transitions and one.name in transitions
        }
        groups = [one.columns for one in encoded]
        return cls(groups, n_changes, listed or None, [one.baseline for one in encoded])

    @property
    def columns(self) -> np.ndarray:
        return np.sort(np.concatenate([np.asarray(group) for group in self.groups]))

    def bind(self, n_features: int, names: Any = None, classes: Any = None) -> OneHot:
        """The groups by position."""
        groups = [positions(group, n_features, names, "groups").tolist() for group in self.groups]
        return replace(self, groups=groups)

    def worst(self, v: Array) -> Array:
        """Refused: each sample has a worst point of its own, that of `at(X)`."""
        raise ValueError(
            "OneHot is another set for each sample, and has no worst point of its own: use at(X)."
        )

    support = worst

    def at(self, X: Any, radius: Any = 1.0) -> Changes:
        """The changes of n samples, as many as n_changes times the radius, rounded down."""
        now = [_categories(X, np.asarray(group)) for group in self.groups]
        for group, found in zip(self.groups, now, strict=True):
            if (found < 0).any():
                raise ValueError(
                    f"groups must be columns of which one is 1 and the others 0, but X holds other "
                    f"values in {group}. Give the threat in the space of the encoder's output, "
                    f"before any scaling."
                )
        count = np.floor(np.minimum(np.asarray(radius) * self.n_changes, len(self.groups)))
        groups = [np.asarray(group) for group in self.groups]
        return Changes(groups, self._allowed(), np.stack(now, axis=-1), count, X.shape[-1])

    def _baselines(self) -> Sequence[bool]:
        several = not isinstance(self.baseline, bool)
        return list(self.baseline) if several else [self.baseline] * len(self.groups)

    def _allowed(self) -> list[np.ndarray]:
        """Which changes are allowed in each group, (k + 1, k + 1); the last value has no column."""
        tables = []
        for place, (group, baseline) in enumerate(zip(self.groups, self._baselines(), strict=True)):
            k = len(group)
            table = np.ones((k + 1, k + 1), dtype=bool)
            pairs = (self.transitions or {}).get(place)
            if pairs is not None:
                table[:] = False
                for pair in pairs:
                    ends = [k if end is None else end for end in pair]
                    if len(ends) != 2 or not all(0 <= end <= k for end in ends):
                        raise ValueError(
                            f"transitions must hold pairs (from, to) of places in group {place}, 0 "
                            f"to {k - 1} or None for no column, got {pair!r}."
                        )
                    table[ends[0], ends[1]] = True
            if not baseline:
                table[:, k] = False
            np.fill_diagonal(table, True)
            tables.append(table)
        return tables


class Changes:
    """What changes of categories do to n samples, or to one.

    Parameters
    ----------
    groups : list of int arrays (k,)
    allowed : list of bool arrays (k + 1, k + 1)
    now : int array of shape (n, number of groups) or (number of groups,)
        The category of each sample in each group; k for the one without a column.
    count : float or array of shape (n,)
        The number of changes.
    d : int
        The number of features.
    box : pair (lower, upper) of arrays of shape (n, d) or (d,), optional
        A box that holds the changes, of bounds <= 0 and >= 0.
    """

    symmetric = convex = solid = False
    per_sample = by_class = False

    def __init__(
        self,
        groups: list[np.ndarray],
        allowed: list[np.ndarray],
        now: np.ndarray,
        count: Any,
        d: int,
        box: Any = None,
    ) -> None:
        self.groups, self.allowed = groups, allowed
        self.now, self.count = now, count
        self.d, self.box = d, box

    def within(self, lower: Any, upper: Any) -> Changes:
        """The changes that a box holds."""
        box = lower, upper
        if self.box is not None:
            box = np.maximum(self.box[0], lower), np.minimum(self.box[1], upper)
        return Changes(self.groups, self.allowed, self.now, self.count, self.d, box)

    def support(self, v: Array) -> Array:
        """The sum of the largest gains: (d,) or (..., n, d) -> (..., n)."""
        return largest_sum(self._gains(v)[0], self.count)

    def worst(self, v: Array) -> Array:
        """The changes of the largest gains: (d,) or (..., n, d) -> (..., n, d)."""
        gains, best = self._gains(v)
        changed = are_largest(gains, self.count) & (gains > 0)
        delta = np.zeros((*gains.shape[:-1], self.d))
        for g, group in enumerate(self.groups):
            places = np.arange(len(group))
            to = places == best[..., g, None]
            away = places == self.now[..., g, None]
            delta[..., group] = changed[..., g, None] * (to.astype(float) - away)
        return delta

    def _gains(self, v: Array) -> tuple[Array, Array]:
        """The largest gain in each group, >= 0, and the category that has it: (..., n, groups)."""
        gains, best = [], []
        for g, group in enumerate(self.groups):
            values = np.concatenate([v[..., group], np.zeros_like(v[..., :1])], axis=-1)
            now, open_ = self.now[..., g], self._open(g)
            shape = np.broadcast_shapes(values.shape[:-1], open_.shape[:-1])
            values = np.broadcast_to(values, (*shape, values.shape[-1]))
            there = np.where(open_, values, -np.inf)
            found = np.argmax(there, axis=-1)[..., None]
            here = np.broadcast_to(now, found.shape[:-1])[..., None]
            gains.append(
                (
                    np.take_along_axis(there, found, axis=-1)
                    - np.take_along_axis(values, here, axis=-1)
                )[..., 0]
            )
            best.append(found[..., 0])
        return np.stack(gains, axis=-1), np.stack(best, axis=-1)

    def _open(self, g: int) -> np.ndarray:
        r"""The categories that each sample can have in a group, (n, k + 1) or (k + 1,).

        A box holds the change from c to k where :math:`l_c \le -1` and :math:`u_k \ge 1`.
        """
        now = self.now[..., g]
        found: np.ndarray = self.allowed[g][now]
        if self.box is None:
            return found
        lower, upper = (np.asarray(bound)[..., self.groups[g]] for bound in self.box)
        no_column = np.ones_like(lower[..., :1], dtype=bool)
        left, taken = (
            np.concatenate([held, no_column], axis=-1) for held in (lower <= -1, upper >= 1)
        )
        here = np.arange(found.shape[-1]) == now[..., None]
        return found & (here | (taken & np.any(here & left, axis=-1, keepdims=True)))

    def program(self) -> tuple[ConicSet, np.ndarray]:
        """The changes of one sample in cones, with an integer z_k in {0, 1} for each that is
        allowed: delta_k = z_k, delta_c = -sum z_k in each group, sum z_k <= 1 there, and at most
        `count` in all.
        """
        entries = []  # group, and the columns to and from, where there are any
        for g, group in enumerate(self.groups):
            now = int(self.now[g])
            for k in np.flatnonzero(self._open(g)):
                if k != now:
                    ends = [int(group[end]) if end < len(group) else -1 for end in (k, now)]
                    entries.append((g, *ends))
        n = len(entries)
        moves = np.zeros((self.d, n))
        members = np.zeros((len(self.groups), n))
        for place, (g, to, away) in enumerate(entries):
            members[g, place] = 1
            if to >= 0:
                moves[to, place] += 1
            if away >= 0:
                moves[away, place] -= 1
        E = sparse.vstack(
            [sparse.eye_array(self.d), sparse.csr_array((n + len(members) + 1, self.d))]
        )
        F = np.vstack([-moves, -np.eye(n), members, np.ones((1, n))])
        h = np.concatenate([np.zeros(self.d + n), np.ones(len(members)), [float(self.count)]])
        cones = [("zero", self.d), ("nonnegative", n + len(members) + 1)]
        return ConicSet(E, sparse.csr_array(F), h, cones), np.ones(n, dtype=bool)

    def conic(self) -> ConicSet:
        """The hull of the changes of one sample in cones."""
        return self.program()[0]


def _categories(X: Any, group: np.ndarray) -> np.ndarray:
    """The place of the 1 of each sample in a group, k where all are 0, -1 where it is no one-hot
    vector.
    """
    part = X[..., group]
    part = part.toarray() if sparse.issparse(part) else np.asarray(part)
    ones = part == 1
    valid = (ones | (part == 0)).all(axis=-1) & (ones.sum(axis=-1) <= 1)
    found = np.where(ones.any(axis=-1), np.argmax(ones, axis=-1), len(group))
    return np.where(valid, found, -1)


@dataclass(frozen=True)
class _Encoded:
    """A categorical feature that an encoder reads: its columns, and the values that have them."""

    name: Any
    columns: list[int]
    values: list[Any]
    dropped: list[Any]

    @property
    def baseline(self) -> bool:
        """Whether a value has no column."""
        return bool(self.dropped)

    def place(self, value: Any) -> int | None:
        """The place of the column of a value; None for the value without one."""
        if value in self.dropped:
            return None
        if value in self.values:
            return self.values.index(value)
        raise ValueError(
            f"transitions of {self.name!r} name {value!r}, which is no category of it: these are "
            f"{self.values + self.dropped}."
        )


def _encoded(encoder: Any, first: int, names: Any = None) -> Iterable[_Encoded]:
    """The categorical features behind a transformer, whose output starts at a column."""
    # modules of 13 MB, which every worker of a cluster would hold
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder

    if isinstance(encoder, Pipeline):
        yield from _encoded(encoder.steps[-1][1], first, names)
    elif isinstance(encoder, ColumnTransformer):
        inputs = getattr(encoder, "feature_names_in_", None)
        for name, step, _ in encoder.transformers_:
            at = encoder._transformer_to_input_indices[name]
            of_step = [int(j) if inputs is None else inputs[j] for j in at]
            yield from _encoded(step, first + encoder.output_indices_[name].start, of_step)
    elif isinstance(encoder, OneHotEncoder):
        if names is None:
            names = getattr(encoder, "feature_names_in_", None)
        if names is None:
            names = [f"x{j}" for j in range(encoder.n_features_in_)]
        if encoder._infrequent_enabled and any(
            found is not None for found in encoder.infrequent_categories_
        ):
            raise ValueError(
                "OneHotEncoder with min_frequency or max_categories has one column for several "
                "categories: give the groups by hand, OneHot(groups)."
            )
        dropped = encoder.drop_idx_
        for j, (name, categories) in enumerate(zip(names, encoder.categories_, strict=True)):
            out = None if dropped is None or dropped[j] is None else int(dropped[j])
            values = [value for k, value in enumerate(categories.tolist()) if k != out]
            columns = list(range(first, first + len(values)))
            first += len(values)
            if columns:
                yield _Encoded(name, columns, values, [] if out is None else [categories[out]])
