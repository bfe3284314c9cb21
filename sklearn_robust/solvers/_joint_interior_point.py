r"""The interior point of the joint risk against l_q balls: Newton steps with cones of norms.

1. The slacks and multipliers of the cones start at those of the smoothed risk at the run's
   predictor, with one :math:`\mu` for each pair (`_joint_cones`).
2. A step solves the Newton system for smaller products of slacks and multipliers (`_joint_newton`).
   Where the cones allow a short one only, the iterate is centred: Newton's method with sufficient
   decrease minimises the smoothed risk, with more smoothing from time to time.
3. The weights at each iterate bound the risk from below (`_joint_bounds`).

The condition :math:`\epsilon A_{lk} = \lambda_{lk}` on the multipliers is taken with :math:`(1 -
\tau) \epsilon`, so that iterates become strictly feasible for the bound at :math:`\epsilon`;
:math:`\tau` falls with the gap, of which it costs a tenth.
"""

from __future__ import annotations

import copy

import numpy as np

from sklearn_robust.solvers._joint_cones import CONES, PairCones, Scaling
from sklearn_robust.solvers._joint_model import Direction, RiskPoint
from sklearn_robust.solvers._joint_newton import NewtonSystems
from sklearn_robust.solvers._joint_run import JointRun, separates, size_of
from sklearn_robust.solvers._joint_start import smoothed_risk

SMOOTHING = 0.03  # smoothing of the norms at the start, in units of the data
_REDUCTION = 0.15  # target of the products after a long step, relative to today's
_CAUTIOUS_REDUCTION = 0.4  # and after a short one
_LONG = 0.7  # share of a step to the boundary from which it counts as long
_LEAST_PRODUCT = 0.1  # least product of a pair over its multiplier, relative to that of all pairs
_SHORT = 0.05  # share of a step that is short: two in a row have the iterate centred
_STUCK = 0.01  # and one of this share by itself
_CENTRINGS = 6  # in one run at most; short steps after them end the method
_WIDER = 4.0  # factor of the smoothing of one centring over that of the last
_CENTRED = 0.1  # predicted decrease that ends it, relative to the sum of products
_CENTRING_STEPS = 50  # Newton steps in one at most
_PATIENCE = 30  # Newton steps without a bound after which it is decided whether the risk recedes
_GROWTH = 4.0  # change of the coefficients, relative to them, that is suspicious
_SUFFICIENT = 1e-4  # share of the predicted decrease that a step has to reach
_BIAS = 0.1  # share of the sum of products that shrinking the dual cone costs
_MOST_SHRINK = 0.2  # largest relative shrinking of the dual cone
_LEAST_MULTIPLIER = 1e-5  # least multiplier of a pair at the start, relative to the largest
# what products and bias are held to at least, as shares of the gap asked for: iterates converge
# there to points that are strictly feasible for the bound
_LEAST_PRODUCTS = 0.01
_LEAST_BIAS = 0.05
_WIDEN = 1.5  # factor of the two after a step that finds the products so small, and no bound
_MAX_QUARTERINGS = 10  # largest number of times that a step is quartered
_STEP_HALVINGS = 30  # largest number of times that a step without cones is halved


class InteriorPoint:
    """The Newton steps of a run, from its predictor.

    Parameters
    ----------
    run : JointRun
    max_iter : int
        Newton steps at most.

    Attributes
    ----------
    widened : float
        By how much the least products and bias were raised.
    n_newton : int
        Newton steps so far.
    """

    def __init__(self, run: JointRun, max_iter: int) -> None:
        self.run = run
        self.max_iter = max_iter
        self.model, self.differences = run.model, run.differences
        self.systems = NewtonSystems(self.model, self.differences, run.precision)
        self.widened = 1.0
        self.n_newton = 0

    # slacks may round to 0 at the boundary of a cone: a step that is not finite is refused
    @np.errstate(over="ignore", divide="ignore", invalid="ignore")
    def minimise(self) -> None:
        """Newton steps until the run ends, or no step leads on."""
        run = self.run
        cones = self._first_cones()
        last_length, n_centrings = 1.0, 0
        at = self.model.at(run.coef, self._norms(cones), hold=True)
        while not run.ends(at, self._slopes(at, cones)) and self.n_newton < self.max_iter:
            if self.n_newton >= _PATIENCE and not run.bounds.proven and run.recedes():
                return
            self._count_newton_step()
            if cones is None:
                if not self._newton_step(at):
                    return
                at = self.model.at(run.coef, at.pairs, hold=True)
                continue
            moved = self._cone_step(at, cones, last_length >= _LONG)
            length = 0.0
            if moved is not None:
                at, cones, length = moved
            is_short = length < _STUCK or max(length, last_length) < _SHORT
            last_length = length
            if is_short:
                if n_centrings == _CENTRINGS:
                    return
                smoothing = _WIDER**n_centrings * self._smoothing_like(cones)
                cones = self._centred(smoothing)
                at = self.model.at(run.coef, cones.t, hold=True)
                n_centrings += 1
                last_length = self.widened = 1.0

    def _first_cones(self) -> PairCones | None:
        """The cones at the start; None without adversary."""
        has_cones = len(self.model.low) > 0 and len(self.differences.columns) > 0
        if self.run.starts_centred and has_cones:
            return self._centred(SMOOTHING)
        return self._cones(SMOOTHING)

    def _count_newton_step(self) -> None:
        self.n_newton += 1
        self.run.n_iter += 1

    def _centred(self, smoothing: float) -> PairCones:
        """Cones whose slacks and multipliers fit together, near the minimiser of the smoothed risk,
        to which Newton's method with sufficient decrease leads from any start.
        """
        run = self.run
        now = smoothed_risk(self.model, self.differences, run.coef, smoothing, hold=True)
        last = min(self.max_iter, self.n_newton + _CENTRING_STEPS)
        while True:
            cones = self._cones(smoothing)
            assert cones is not None
            products = cones.products()
            if self.n_newton >= last or not self.systems.factorise(
                now.point, cones.scaling(products / cones.degree)
            ):
                return cones
            self._count_newton_step()
            step = self.systems.solve(Direction(-now.gradient, np.zeros(len(products)))).coef
            decrease = -float(np.vdot(now.gradient, step))
            if not decrease > _CENTRED * float(products.sum()):
                return cones
            value, length = now.point.release().value, 1.0
            for _ in range(_STEP_HALVINGS):
                coef = run.coef + length * step
                moved = smoothed_risk(self.model, self.differences, coef, smoothing, hold=True)
                if moved.point.value <= value - _SUFFICIENT * length * decrease:
                    break
                length *= 0.5
            else:
                return cones
            run.coef, now = coef, moved
            run.show(coef)
            if run.stopped or separates(now.point):
                return self._cones(smoothing) or cones

    def _smoothing_like(self, cones: PairCones) -> float:
        """The smoothing of the start, or a smaller one with products like those of the cones; that
        of the start where rounding decides the sums of products, which far out cancel.
        """
        start = self._cones(SMOOTHING)
        assert start is not None
        total, of_start = (float(of.products().sum()) for of in (cones, start))
        return SMOOTHING * min(1.0, total / of_start) if min(total, of_start) > 0 else SMOOTHING

    def _cones(self, smoothing: float) -> PairCones | None:
        """The cones with slacks and multipliers of the smoothed risk; None without adversary."""
        D = self.differences.of(self.run.coef)
        if not D.size:
            return None
        norms = self.differences.smoothed(self.run.coef, smoothing)[0]
        multipliers = self.model.at(self.run.coef, norms).gradient.pairs
        least = max(_LEAST_MULTIPLIER * float(multipliers.max()), np.finfo(float).tiny)
        cone = CONES[self.model.problem.threat.q]
        return cone(D, np.maximum(multipliers, least), smoothing)

    def _norms(self, cones: PairCones | None) -> np.ndarray:
        return np.zeros(len(self.model.low)) if cones is None else cones.t

    def _slopes(self, at: RiskPoint, cones: PairCones | None) -> np.ndarray:
        """Flows of the pairs over their capacities, (P, r)."""
        if cones is None:
            return np.zeros((0, 0))
        delta, multipliers = cones.multipliers
        slopes: np.ndarray = delta / np.maximum(multipliers, at.gradient.pairs)[:, None]
        return slopes

    def _newton_step(self, at: RiskPoint) -> bool:
        """Newton's method where there is no adversary; whether it can go on."""
        run = self.run
        if not self.systems.factorise(at, None):
            return False
        step = self.systems.solve(at.gradient * -1.0)
        # a step that leaves the scale of the coefficients is sign of a risk without minimiser
        longest = _GROWTH * max(1.0, float(np.abs(run.coef).max()))
        is_long = float(np.abs(step.coef).max()) > longest
        if is_long and not run.bounds.proven and run.recedes():
            return False
        length = 1.0
        for _ in range(_STEP_HALVINGS):
            moved = run.coef + length * step.coef
            value = self.model.at(moved, at.pairs).value
            # rounding is granted
            if value <= at.value + 1e-14 * max(1.0, abs(at.value)):
                run.coef = moved
                return True
            length *= 0.5
        return False

    def _cone_step(
        self, at: RiskPoint, cones: PairCones, long_step: bool
    ) -> tuple[RiskPoint, PairCones, float] | None:
        """One step of the interior point: the point and the cones there, and the shorter of its two
        lengths; None where it fails.
        """
        run = self.run
        products = cones.products()
        total, least = float(products.sum()), run.tol * size_of(at) * self.widened
        if total <= 2 * _LEAST_PRODUCTS * least and not run.bounds.proven:
            self.widened *= _WIDEN
        penalty = max(float(at.gradient.pairs @ cones.t), np.finfo(float).tiny)
        shrink = min(_MOST_SHRINK, max(_BIAS * total, _LEAST_BIAS * least) / penalty)
        reduction = _REDUCTION if long_step else _CAUTIOUS_REDUCTION
        reduction = max(reduction, min(1.0, _LEAST_PRODUCTS * least / max(total, 1e-300)))
        multipliers = cones.multipliers[1]
        share = _LEAST_PRODUCT * total / float(multipliers.sum())
        mu = reduction * np.maximum(products, share * multipliers) / cones.degree
        scaling = cones.scaling(mu)
        if not self.systems.factorise(at, scaling):
            return None
        step, changes, lengths = self._solve(at, cones, scaling, shrink)
        if min(lengths) < _LONG:
            corrected = cones.corrected(changes, step.pairs)
            if corrected is not None:
                other = self._solve(at, cones, corrected, shrink)
                if sum(other[2]) > sum(lengths):
                    step, changes, lengths = other
                else:
                    cones.scaling(mu)
        if not (min(lengths) > 0 and np.isfinite(step.coef).all()):
            return None
        value = at.release().value
        share = 1.0
        for _ in range(_MAX_QUARTERINGS):
            moved = copy.copy(cones)
            coef = run.coef + moved.move(changes, step.pairs, share) * step.coef
            new = self.model.at(coef, moved.t, hold=True)
            # the sum of products bounds what a step towards smaller ones may cost
            if new.value <= value + max(total, least):
                run.coef = coef
                return new, moved, share * min(lengths)
            share *= 0.25
        return None

    def _solve(
        self,
        at: RiskPoint,
        cones: PairCones,
        scaling: Scaling,
        shrink: float,
    ) -> tuple[Direction, np.ndarray, tuple[float, float]]:
        """The step for the force of a scaling, its differences, and how far the cones allow it."""
        force = self.differences.adjoint(scaling.force, self.run.coef.shape)
        by_pair = (1 - shrink) * at.gradient.pairs + scaling.force_of_pair
        step = self.systems.solve(Direction(-(at.gradient.coef + force), -by_pair))
        changes = self.differences.of(step.coef)
        return step, changes, cones.lengths(changes, step.pairs)
