"""Problems of two and of several classes that are known by sums over their samples alone.

A solver asks for the total of a function of the samples of a block: no array over all samples is
ever formed, and the blocks may lie in files or on a cluster.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from typing import Any, Generic, NamedTuple, Self

import numpy as np

from sklearn_robust.joint import JointProblem
from sklearn_robust.rows import ArrayRows, Block, Reduction, Survey
from sklearn_robust.rows.reduction import S
from sklearn_robust.threats import LpBall


class Predictor(NamedTuple):
    """A linear predictor, and the margin that the adversary takes of it."""

    coef: np.ndarray
    intercept: float
    penalty: float

    def towards(self, other: Predictor, share: float, penalty: float) -> Predictor:
        """The predictor at a share of the way to another, of this penalty."""
        coef = self.coef + share * (other.coef - self.coef)
        return Predictor(coef, self.intercept + share * (other.intercept - self.intercept), penalty)


class Samples(NamedTuple):
    """The samples of positive weight of a block.

    Attributes
    ----------
    rows : DenseRows or SparseRows
    y : ndarray of shape (m,)
        Labels in {-1, +1}, or 0..K-1 of several classes.
    log_weight : ndarray of shape (m,)
        Logarithms of the sample weights, which sum to 1 over all blocks.
    """

    rows: ArrayRows
    y: np.ndarray
    log_weight: np.ndarray

    def margins(self, predictors: Sequence[Predictor]) -> np.ndarray:
        """The robust margins of k predictors, (k, m), in double precision."""
        scores = self.rows.scores(np.stack([at.coef for at in predictors]))
        intercepts, penalties = np.array([(at.intercept, at.penalty) for at in predictors]).T
        return self.y * (scores + intercepts[:, None]) - penalties[:, None]


@dataclass(frozen=True)
class SummedSamples(ABC):
    r"""The samples of one problem against an l_q ball, on blocks of rows.

    Attributes
    ----------
    reduction : Reduction
    survey : Survey
    classes : ndarray of shape (K,)
        The labels of the classes, in order.
    factors : ndarray of shape (K,)
        On the sample weights of each class.
    threat : LpBall
        The unit ball; without a scale where all features have the same.
    radius : float
    fit_intercept : bool
    """

    reduction: Reduction
    survey: Survey
    classes: np.ndarray
    factors: np.ndarray
    threat: LpBall
    radius: float
    fit_intercept: bool

    @classmethod
    def of(
        cls,
        reduction: Reduction,
        survey: Survey,
        ball: LpBall,
        *,
        classes: np.ndarray,
        factors: np.ndarray,
        fit_intercept: bool,
    ) -> Self:
        """The problem of blocks, of which the survey is known, against a ball in the units of X."""
        unit, scale = LpBall(ball.q, 1.0, ball.scale).simplified()
        return cls(
            reduction, survey, classes, factors, unit, float(scale) * ball.eps, fit_intercept
        )

    @property
    def n_features(self) -> int:
        """The number of features, d."""
        return self.survey.n_features

    @property
    def class_weights(self) -> np.ndarray:
        """The sum of the weights of each class, (K,)."""
        at = [np.flatnonzero(self.survey.labels == label) for label in self.classes]
        sums = np.array([self.survey.weights[i].sum() for i in at])
        return sums * self.factors

    @property
    def total_weight(self) -> float:
        """The sum of the weights before they were scaled to sum 1."""
        return float(self.class_weights.sum())

    @property
    @abstractmethod
    def codes(self) -> np.ndarray:
        """The numbers that stand for the classes, (K,)."""

    def total(self, function: Callable[[Samples], S]) -> S:
        """The sum of a function of the samples of each block that has samples of positive weight.

        Raises
        ------
        ValueError
            If the blocks hold more or fewer samples than at their survey.
        """
        read = _SamplesOf(function, self.classes, self.codes, self.factors / self.total_weight)
        counted = self.reduction.total(read)
        if counted.n != self.survey.n:
            raise ValueError(
                f"X has changed: it held {self.survey.n} samples when it was first read, and now "
                f"holds {counted.n}. Its blocks must be the same each time they are read."
            )
        assert counted.part is not None  # all classes have weight
        return counted.part


@dataclass(frozen=True)
class SummedProblem(SummedSamples):
    """One problem of two classes, -1 and +1; see `SummedSamples`."""

    @property
    def codes(self) -> np.ndarray:
        """-1 and +1."""
        return np.array([-1.0, 1.0])

    def penalty(self, coef: np.ndarray) -> float:
        """The margin that the adversary takes."""
        return self.radius * float(self.threat.dual_norm.value(coef))

    def predictor(self, coef: np.ndarray, intercept: float) -> Predictor:
        """The predictor of these coefficients."""
        return Predictor(coef, float(intercept), self.penalty(coef))


@dataclass(frozen=True)
class SummedJointProblem(SummedSamples):
    """One problem of several classes, 0..K-1; see `SummedSamples`."""

    @property
    def codes(self) -> np.ndarray:
        """0..K-1."""
        return np.arange(len(self.classes))

    @cached_property
    def form(self) -> JointProblem:
        """The problem without its samples."""
        return JointProblem(
            X=np.empty((0, self.n_features)),
            y=np.empty(0, dtype=int),
            n_classes=len(self.classes),
            threat=self.threat,
            radius=self.radius,
            log_weight=np.empty(0),
            log_total_weight=math.log(self.total_weight),
            fit_intercept=self.fit_intercept,
        )

    def at_class_means(self) -> JointProblem:
        """The problem of K samples, the weighted mean of each class; see
        `JointProblem.at_class_means`.
        """
        shares = self.class_weights / self.total_weight
        means = self.total_of_parts(_class_sums_of_rows) / shares[:, None]
        form = self.form
        return replace(form, X=means, y=np.arange(form.n_classes), log_weight=np.log(shares))

    def total_of_parts(self, function: Callable[[JointProblem], S]) -> S:
        """The sum of a function of the problems of some of the samples each: all samples together,
        of which those of one problem are few enough for arrays over classes and samples.
        """
        return self.total(_OfParts(function, self.form))


def _class_sums_of_rows(problem: JointProblem) -> np.ndarray:
    """The weighted sums of the samples of each class, (K, d)."""
    members = np.zeros((problem.n_classes, len(problem.y)))
    members[problem.y, np.arange(len(problem.y))] = np.exp(problem.log_weight)
    sums: np.ndarray = problem.rows.weighted_sum(members)
    return sums


# entries of an array over classes and samples of a part, four megabytes in float64
_PART_ENTRIES = 2**19


@dataclass(frozen=True)
class _OfParts(Generic[S]):
    """The function of samples that adds up a function of the problems of parts of them."""

    function: Callable[[JointProblem], S]
    form: JointProblem

    def __call__(self, samples: Samples) -> S:
        length = max(1, _PART_ENTRIES // self.form.n_classes)
        starts = range(0, len(samples.y), length)
        return reduce(add, (self._part(samples, slice(at, at + length)) for at in starts))

    def _part(self, samples: Samples, at: slice) -> S:
        log_weight = samples.log_weight[at]
        part = replace(self.form, X=samples.rows.X[at], y=samples.y[at], log_weight=log_weight)
        return self.function(part)


@dataclass(frozen=True)
class _Counted(Generic[S]):
    """The number of samples of some blocks, and a sum over those of positive weight, if any."""

    n: int
    part: S | None

    def __add__(self, other: _Counted[S]) -> _Counted[S]:
        n = self.n + other.n
        if self.part is None or other.part is None:
            return _Counted(n, other.part if self.part is None else self.part)
        return _Counted(n, self.part + other.part)


@dataclass(frozen=True)
class _SamplesOf(Generic[S]):
    """The function of a block that applies a function to its samples."""

    function: Callable[[Samples], S]
    classes: np.ndarray
    codes: np.ndarray
    factors: np.ndarray

    def __call__(self, block: Block) -> _Counted[S]:
        rows, labels = block.rows, block.labels
        place, weight = np.zeros(len(labels), dtype=int), np.zeros(len(labels))
        for k, label in enumerate(self.classes):
            members = labels == label
            place[members], weight[members] = k, self.factors[k]
        y = self.codes[place]
        if block.weights is not None:
            weight = weight * block.weights
        used = weight > 0
        if not used.all():
            rows, y = type(rows)(rows.X[used]), y[used]
            weight = weight[used]
        part = self.function(Samples(rows, y, np.log(weight))) if len(y) else None
        return _Counted(len(labels), part)


def positive_classes(survey: Survey, factors: Any) -> np.ndarray:
    """The labels whose samples have weight in all, after a factor on the weights of each label."""
    return survey.labels[survey.weights * factors > 0]
