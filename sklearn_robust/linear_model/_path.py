"""Robust linear classifiers along a grid of radii and geometries, solved together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import _num_samples

from sklearn_robust._documentation import see
from sklearn_robust._parameters import check_exponent, check_radii, one_or_several
from sklearn_robust.joint import JointProblem
from sklearn_robust.linear_model._robust_linear import (
    RobustLinearClassifier,
    read_settings,
    solve,
)
from sklearn_robust.linear_model.fitting import Batch
from sklearn_robust.linear_model.joint_fitting import JointFit
from sklearn_robust.linear_model.lifecycle import begin_fit
from sklearn_robust.linear_model.reading import read_problem
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import Norm, norm_of
from sklearn_robust.problems import RobustProblem
from sklearn_robust.separators.separator import check_geometry
from sklearn_robust.solvers import Solution
from sklearn_robust.solvers.solution import stack_solutions
from sklearn_robust.threats import Threat, check_sample_radius, is_per_sample


@dataclass(frozen=True)
class RobustLinearPath:
    """Robust linear classifiers for every geometry p and radius eps, from `robust_linear_path`.

    `coef[i, j]` and `intercept[i, j]` are `coef_` and `intercept_` of `RobustLinearClassifier(p[i],
    q, eps[j])`: `n_rows` is 1 for two classes, else the number of classes. The figures of a cell,
    `margin[i, j]` and so on, have one entry.

    Attributes
    ----------
    p : ndarray of shape (n_p,)
        In the order given; of objects where matrix norms are among them.
    eps : ndarray of shape (n_eps,)
        In the order given.
    classes : ndarray of shape (n_classes,)
    coef : ndarray of shape (n_p, n_eps, n_rows, n_features)
    intercept : ndarray of shape (n_p, n_eps, n_rows)
    margin : ndarray of shape (n_p, n_eps, 1)
        Smallest robust margin of the training samples over the p-norm of w, or of all entries of W;
        positive if they are robustly separated.
    margin_bound : ndarray of shape (n_p, n_eps, 1)
        No linear classifier has a larger one; 0 where the data are not robustly separable.
    dual_gap : ndarray of shape (n_p, n_eps, 1)
        Separable: 1 - margin / margin_bound. Not separable: certified relative gap of the risk.
    separable : ndarray of shape (n_p, n_eps, 1)
        True or False, proven; None where undecided.
    converged : bool ndarray of shape (n_p, n_eps, 1)
        Whether the criterion of the solver was met.
    n_iter : int ndarray of shape (n_p, n_eps, 1)
    """

    p: np.ndarray
    eps: np.ndarray
    classes: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray
    margin: np.ndarray
    margin_bound: np.ndarray
    dual_gap: np.ndarray
    separable: np.ndarray
    converged: np.ndarray
    n_iter: np.ndarray

    def __repr__(self) -> str:
        n_p, n_eps, _, n_features = self.coef.shape
        p = np.array2string(self.p, separator=", ", threshold=8)
        return (
            f"RobustLinearPath({n_p} p x {n_eps} eps, {len(self.classes)} classes, {n_features} "
            f"features, p {p}, eps from {self.eps.min():.4g} to {self.eps.max():.4g}, "
            f"{int(self.converged.sum())} of {self.converged.size} fits converged)"
        )


def robust_linear_path(
    X: Any,
    y: Any,
    *,
    p: float | str | Sequence[float | str],
    q: float | None = None,
    eps: float | Sequence[float],
    threat: Threat | None = None,
    loss: str | MarginLoss = "exponential",
    solver: str = "auto",
    scale: Any = None,
    fit_intercept: bool = True,
    sample_weight: Any = None,
    class_weight: dict[Any, float] | str | None = None,
    max_iter: int = 50_000,
    loss_tol: float = 1e-3,
    tol: float = 1e-3,
    n_jobs: int | None = None,
) -> RobustLinearPath:
    r"""Robust linear classifiers for a sequence of radii, in one or several geometries.

    For every p and eps, the result of steepest descent in the p-norm on the robust risk of
    `RobustLinearClassifier`, for two classes

    .. math:: L(w, b) = \tfrac1n \sum_i \ell\big(y_i (\langle w, x_i\rangle + b) - \epsilon
       \|w\|_{q^*}\big).

    Radii at which the data are not robustly separable have one minimiser of the risk for all p,
    which is computed once. At the others the paths of all p and eps of two classes are followed as
    one batch.

    Parameters
    ----------
    X : array-like or sparse array of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
        Labels of two or more classes, of any type.
    p : float, {"spectral", "nuclear"} or sequence of these
        Geometries of the algorithm: exponents in [1, inf], and norms of the matrix of coefficients
        of several classes.
    q : float
        Exponent of the norm that bounds the perturbation, in [1, inf]; must be given, unless there
        is a threat.
    eps : float or sequence of float
        Radii of the perturbation, in the units of the features; beside a threat the factors on it.
    threat : Threat, optional
        The set of perturbations as an object, in place of q and scale. Each cell trains against eps
        times it: limits of the data do not grow, and of changes that are counted the number does.
    loss : {"exponential", "logistic"} or MarginLoss, default="exponential"
    solver : {"auto", "steepest_descent", "accelerated", "exact"}, default="auto"
    scale : array-like of shape (n_features,) or dict {feature name: float}, optional
        How far the adversary can move each feature, as in `RobustLinearClassifier`.
    fit_intercept : bool, default=True
    sample_weight : array-like of shape (n_samples,), optional
        Non-negative; a sample of weight zero is left out.
    class_weight : dict, "balanced" or None, default=None
    max_iter : int, default=50000
    loss_tol : float, default=1e-3
    tol : float, default=1e-3
        See `RobustLinearClassifier` for these parameters.
    n_jobs : int or None, default=None
        Parallel jobs over exact separators.

    Returns
    -------
    RobustLinearPath

    Raises
    ------
    ValueError
        If p, q or eps are out of their range or empty, or for a parameter that
        `RobustLinearClassifier` would refuse.

    Warns
    -----
    ConvergenceWarning
        If some cells of the grid stopped before their criterion.

    See Also
    --------
    RobustLinearClassifier : One cell of the grid, as an estimator.
    RobustLinearClassifierCV : Chooses the cell by cross-validation.
    separator_path : The exact separators along radii.

    Notes
    -----
    Each cell is the answer of `RobustLinearClassifier` with the same parameters; beside a threat
    its `sample_radius` is eps for all samples. Paths of a batch may differ from single paths by
    rounding: where the limit is not reached, a classifier may differ from the one fitted alone by
    the rounding that its steps magnify (1e-3 of the largest coefficient was the most seen).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_robust import robust_linear_path
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> path = robust_linear_path(StandardScaler().fit_transform(X), y, p=2,
    ...     q=np.inf, eps=[0.05, 0.1, 0.2, 0.4])
    >>> path.coef.shape
    (1, 4, 1, 30)
    >>> np.count_nonzero(path.coef[0, :, 0], axis=1)  # fewer features the stronger the adversary
    array([15, 10,  7,  4])
    """
    geometries = check_geometries(p, "p")
    radii = check_radii(eps, "eps")
    if threat is None and q is None:
        raise ValueError(
            "q, the exponent of the l_q ball, or threat must be given, got neither. Use q=math.inf "
            "for features that move by eps each."
        )
    if threat is not None and (q is not None or scale is not None):
        raise ValueError(
            f"threat takes the place of q and scale, got threat={threat!r} beside q={q!r} and "
            f"scale={scale!r}. Leave out one or the others."
        )
    model = RobustLinearClassifier(
        geometries[0],
        math.inf if q is None else check_exponent(q, "q"),
        loss=loss,
        solver=solver,
        scale=scale,
        threat=threat,
        fit_intercept=fit_intercept,
        max_iter=max_iter,
        loss_tol=loss_tol,
        tol=tol,
        class_weight=class_weight,
        n_jobs=n_jobs,
    )
    path = solve_grid(model, X, y, sample_weight, geometries, radii)
    if not path.converged.all():
        warn_of_cells(path.converged, path.dual_gap, "robust_linear_path", model)
    return path


def check_geometries(values: Any, name: str) -> list[float | str]:
    """One or several exponents in [1, inf] or names of matrix norms, in the order given."""
    return [check_geometry(value, name) for value in one_or_several(values, name)]


def to_array(values: Sequence[float | str]) -> np.ndarray:
    """The values as an array of numbers, or of objects where there are names among them."""
    named = any(isinstance(value, str) for value in values)
    return np.array(values, dtype=object if named else None)


def solve_grid(
    model: RobustLinearClassifier,
    X: Any,
    y: Any,
    sample_weight: Any,
    p: Sequence[float | str],
    eps: Sequence[float],
    *,
    sample_radius: Any = None,
    batched: bool = True,
) -> RobustLinearPath:
    """The grid of one estimator's fits, which differ in p and eps alone.

    A radius of eps multiplies the threat of the model, where it has one, and the radii of samples.
    The paths of a grid that is not batched are followed one cell at a time: they are those of fits
    of their own, to the last digit. Those of several classes always are.
    """
    geometries = [read_settings(model.set_params(p_algo=value)) for value in p]
    if model.threat is None:
        model.set_params(eps=1.0)
    read = partial(read_problem, model, X, y, sample_weight, model.class_weight)
    problem = read(sample_radius)
    norms = [norm_of(geometry, len(model.classes_)) for geometry in geometries]
    if is_per_sample(model.threat_):
        # limits do not grow with the radius: the sets of each are made anew
        n = _num_samples(X)
        given = check_sample_radius(sample_radius, n)
        factors = np.ones(n) if given is None else given
        solutions = _solve_each(model, (read(radius * factors) for radius in eps), norms)
    elif isinstance(problem, JointProblem):
        unit = problem.radius
        at_radii = (problem.at_radius(unit * radius) for radius in eps)
        solutions = _solve_each(model, at_radii, norms)
    else:
        solutions = _solve_pairs(model, problem, norms, eps, batched=batched)

    def grid(name: str, *shape: int) -> np.ndarray:
        """The arrays of all cells, with this shape in a cell."""
        parts = np.stack([np.asarray(getattr(solution, name)) for solution in solutions])
        return parts.reshape(len(p), len(eps), *shape)

    return RobustLinearPath(
        p=to_array(p),
        eps=np.array(eps),
        classes=model.classes_,
        coef=grid("coef", -1, problem.n_features),
        intercept=grid("intercept", -1),
        margin=grid("margin", 1),
        margin_bound=grid("margin_bound", 1),
        dual_gap=np.maximum(grid("gap", 1), 0),  # below zero only by rounding
        separable=grid("separable", 1),
        converged=grid("converged", 1),
        n_iter=np.maximum(grid("n_iter", 1), 1),
    )


def _solve_pairs(
    model: RobustLinearClassifier,
    problem: RobustProblem,
    norms: Sequence[Norm],
    eps: Sequence[float],
    *,
    batched: bool,
) -> list[Solution]:
    """The solutions of two classes at all radii, in each geometry."""
    unit = float(problem.radius[0])
    cells = problem.at_radii([unit * radius for radius in eps])
    fit = begin_fit(model, cells, None, loss=model.loss, tol=model.tol)
    batches: list[Batch] | None = None
    if not batched:
        batches = [([i], np.array([j])) for i in range(len(norms)) for j in range(len(eps))]
    return solve(model, fit, norms, batches)


def _solve_each(
    model: RobustLinearClassifier,
    problems: Iterable[RobustProblem | JointProblem],
    norms: Sequence[Norm],
) -> list[Solution]:
    """The solutions of the problems of all radii, one after the other, in each geometry.

    The geometries share the first search for a minimiser of the risk, as it does not depend on
    them.
    """
    by_radius: list[list[Solution]] = []
    for problem in problems:
        fit = begin_fit(model, problem, None, loss=model.loss, tol=model.tol)
        if isinstance(fit, JointFit):
            fit.decide_separability(norms[0])
            by_radius.append([solve(model, replace(fit), [norm])[0] for norm in norms])
        else:
            by_radius.append(solve(model, fit, norms))
    return [stack_solutions(list(of_norm)) for of_norm in zip(*by_radius, strict=True)]


def warn_of_cells(
    converged: np.ndarray,
    gap: np.ndarray,
    what: str,
    model: RobustLinearClassifier,
    *,
    stacklevel: int = 3,
) -> None:
    """A ConvergenceWarning for those of many fits that did not converge."""
    late = ~converged
    undecided = " (inf where separability is undecided)" if math.inf in gap[late] else ""
    warnings.warn(
        f"{what}: {late.sum()} of {late.size} fits stopped before they reached tol={model.tol!r} "
        f"or loss_tol={model.loss_tol!r}; the largest certified relative gap among them is "
        f"{gap[late].max():.2g}{undecided}. To mend this, scale the features to similar sizes, "
        f"increase max_iter={model.max_iter}, or accept a larger tol. "
        f"{see('questions', 'a-convergencewarning-names-a-gap-may-i-use-the-fit')}",
        ConvergenceWarning,
        stacklevel=stacklevel,
    )
