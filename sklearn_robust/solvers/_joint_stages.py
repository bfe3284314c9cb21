r"""L-BFGS on the joint risk in stages, where the interior point does not serve.

Each stage minimises the smoothed risk at the radius :math:`(1 - \tau) \epsilon`, with the bounds of
the problem at :math:`\epsilon`, for smaller and smaller :math:`\tau` and smoothing.
"""

from __future__ import annotations

import numpy as np

from sklearn_robust.solvers._joint_model import RiskPoint
from sklearn_robust.solvers._joint_run import JointRun, separates, size_of

_SHRINKS = (0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)  # shrinking of the radius, by stage of L-BFGS
_SMOOTHING_OF_SHRINK = 0.3  # smoothing in a stage, in units of the data, relative to the shrinking
_PROVE_EVERY = 25  # iterations of a stage between attempts at a bound
_PRICES = 1.5  # times the price of its smaller radius: the gap at which a stage ends
_LEAST_ITERATIONS = 30  # iterations of a stage at least
# entries of arrays over classes and samples, and over pairs and features, that all iterations of
# L-BFGS may compute: some minutes, and enough for a thousand classes
_MOST_ENTRIES = 10_000_000_000


def minimise_in_stages(run: JointRun, max_iter: int) -> None:
    """L-BFGS at a radius that approaches the problem's, until the bound closes the gap."""
    entries = run.coef.shape[0] * run.n_samples
    entries += len(run.model.low) * len(run.differences.columns)
    max_iter = min(max_iter, _MOST_ENTRIES // entries)
    for stage, shrink in enumerate(_SHRINKS):
        left = max_iter - run.n_iter
        of_stage = max(_LEAST_ITERATIONS, left // (len(_SHRINKS) - stage))
        if left <= 0 or _ends_stage(run, shrink, min(of_stage, left)):
            return


def _ends_stage(run: JointRun, shrink: float, max_iter: int) -> bool:
    """One stage, until most of the gap is the price of the smaller radius; whether the method
    ends.
    """
    smoothing = _SMOOTHING_OF_SHRINK * shrink
    judged = False  # whether the last iterate was tried for the bound

    def gap(coef: np.ndarray, point: RiskPoint) -> float:
        """The gap between the logarithms of the risk and its bound, after the weights at the
        point were tried.
        """
        slopes = run.differences.smoothed(coef, smoothing)[1]
        run.bounds.update(point, (1 - shrink) * slopes)
        return run.log_risk(coef) - run.bounds.bound

    def ends(coef: np.ndarray, point: RiskPoint) -> bool:
        nonlocal judged
        if run.ends_descent(coef, point):
            return True
        if run.n_iter % _PROVE_EVERY:
            return False
        penalty = float(point.gradient.pairs @ point.pairs) / size_of(point)
        judged = gap(coef, point) <= max(run.tol, _PRICES * shrink * penalty)
        return judged

    point = run.descend(smoothing, shrink, max_iter, ends).point
    if run.stopped:
        return True
    if separates(point):  # at a radius below the problem's
        return False
    if judged:
        return run.log_risk(run.coef) - run.bounds.bound <= run.tol
    return gap(run.coef, point) <= run.tol
