"""The robust linear classifier on a cluster: the fit and the predictions of chunks of data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from sklearn_robust.distributed.chunks import is_collection, map_rows, read_chunks
from sklearn_robust.distributed.reduction import DaskReduction, LostClusterError, current_client
from sklearn_robust.distributed.scores import average_score
from sklearn_robust.linear_model import RobustLinearClassifier as LocalClassifier
from sklearn_robust.linear_model.base import store_solution
from sklearn_robust.linear_model.summed_fitting import SummedFit, read_summed_problem
from sklearn_robust.linear_model.summed_joint_fitting import SummedJointFit
from sklearn_robust.losses import MarginLoss
from sklearn_robust.norms import Norm
from sklearn_robust.rows import Block, Survey
from sklearn_robust.solvers import Solution
from sklearn_robust.threats import Threat


def is_distributed(X: Any) -> bool:
    """Whether X is a dask array or frame, or a list of row sources."""
    return is_collection(X) or (
        isinstance(X, list | tuple) and len(X) > 0 and all(hasattr(part, "blocks") for part in X)
    )


def _lazy(name: str, what: str, shape: str) -> Any:
    """A method of `RobustLinearClassifier` that predicts where the samples lie."""

    def method(self: RobustLinearClassifier, X: Any) -> Any:
        return self._by_chunks(name, X)

    method.__name__, method.__qualname__ = name, f"RobustLinearClassifier.{name}"
    method.__doc__ = f"""{what}

        Parameters
        ----------
        X : dask array or frame, list of row sources, or data in memory

        Returns
        -------
        dask array of shape {shape}, computed when it is asked for; or ndarray
        """
    return method


class RobustLinearClassifier(LocalClassifier):
    r"""Linear classifier trained against the worst perturbation of each sample, on data that lie on
    a cluster.

    The parameters, the answer and its certificate are those of
    `sklearn_robust.RobustLinearClassifier`; `fit` takes a dask array or frame with labels and
    weights of its kind, or a list of row sources, objects with a method ``blocks()`` that yields
    (X, y) or (X, y, sample_weight) and that can be pickled. Data in memory are fitted here, without
    the cluster.

    The data stay where they are. A sweep computes sums over each chunk, and adds them up on the
    workers: Newton's method takes some ten sweeps, which move a few numbers a feature, and the
    Hessian of the features in use; several classes take some ten, too, and move the few samples
    that they start from. So a chunk that is recomputed from its recipe, because its worker is lost,
    changes nothing. Persist the data, ``X = X.persist()``, where they fit into the memory of the
    workers; otherwise every sweep reads them anew.

    Parameters
    ----------
    p_algo, q_pert, eps, loss, scale, clip, fit_intercept
    loss_tol, tol, class_weight, warm_start, verbose
        As in `sklearn_robust.RobustLinearClassifier`. On a cluster the loss is "exponential" or
        "logistic".
    solver : {"auto", "exact", "steepest_descent", "accelerated"}, default="auto"
        On a cluster "auto" and "exact" are the same, the minimiser of the risk, or the exact
        separator where the data are robustly separable; there are no others.
    threat : LpBall or Threat, optional
        On a cluster an `LpBall`.
    step_size, max_iter, n_jobs, device
        For data in memory only.
    client : distributed.Client, optional
        The client of the cluster; the current one by default. Copies and pickles of the classifier
        have None.

    Attributes
    ----------
    coef_, intercept_, scale_, threat_, classes_, separable_, margin_, margin_bound_, dual_gap_
        As in `sklearn_robust.RobustLinearClassifier`.
    log_risk_, n_iter_, n_features_in_, feature_names_in_
        As in `sklearn_robust.RobustLinearClassifier`.

    See Also
    --------
    sklearn_robust.RobustLinearClassifier : On one machine, also from files.

    Notes
    -----
    A sweep of Newton's method computes, at a predictor, the sums of the weights a of the loss, of
    :math:`a_i y_i x_i`, and the Hessian; sums of two chunks add up after they are brought to the
    same risk. The certificate is one more sweep.

    A scheduler that does not answer any more ends the fit with a `LostClusterError`, whose `model`
    has the last predictor; its `fit` goes on from there.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from distributed import Client
    >>> from sklearn_robust.distributed import RobustLinearClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((1000, 5))
    >>> y = X[:, 0] + rng.standard_normal(1000) > 0
    >>> X, y = da.from_array(X, chunks=(250, 5)), da.from_array(y, chunks=250)
    >>> with Client(processes=False, n_workers=1, dashboard_address=":0") as client:
    ...     model = RobustLinearClassifier(eps=0.1, loss="logistic").fit(X, y)
    ...     labels = model.predict(X).compute()
    >>> model.separable_, model.dual_gap_ <= 1e-9, labels.shape
    (False, True, (1000,))
    """

    def __init__(
        self,
        p_algo: float | str | Norm = 2,
        q_pert: float = math.inf,
        eps: float = 0.1,
        *,
        loss: str | MarginLoss = "exponential",
        solver: str = "auto",
        scale: Any = None,
        clip: Any = None,
        threat: Threat | None = None,
        fit_intercept: bool = True,
        step_size: float | str = "adaptive",
        max_iter: int = 50_000,
        loss_tol: float = 1e-3,
        tol: float = 1e-3,
        class_weight: dict[Any, float] | str | None = None,
        warm_start: bool = False,
        n_jobs: int | None = None,
        device: str | None = None,
        verbose: int = 0,
        client: Any = None,
    ) -> None:
        super().__init__(
            p_algo,
            q_pert,
            eps,
            loss=loss,
            solver=solver,
            scale=scale,
            threat=threat,
            clip=clip,
            fit_intercept=fit_intercept,
            step_size=step_size,
            max_iter=max_iter,
            loss_tol=loss_tol,
            tol=tol,
            class_weight=class_weight,
            warm_start=warm_start,
            n_jobs=n_jobs,
            device=device,
            verbose=verbose,
        )
        self.client = client

    def __sklearn_clone__(self) -> Self:
        copied = {name: clone(value, safe=False) for name, value in self._parameters().items()}
        return type(self)(**copied)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"client": None}

    def _parameters(self) -> dict[str, Any]:
        """The parameters without the client."""
        found = self.get_params(deep=False)
        del found["client"]
        return found

    # -- the fit

    def _read_problem(self, X: Any, y: Any, sample_weight: Any, sample_radius: Any) -> Any:
        if not is_distributed(X):
            return super()._read_problem(X, y, sample_weight, sample_radius)
        if sample_radius is not None:
            raise ValueError("sample_radius is for data in memory. Use sample_radius=None.")
        if self.device is not None:
            raise ValueError(f"device={self.device!r} is for data in memory. Use device=None.")
        chunks = read_chunks(X, y, sample_weight)
        reduction = DaskReduction(current_client(self.client), chunks)
        return read_summed_problem(self, reduction, reduction.total(Survey.of))

    def _solve_by_sums(self, fit: SummedFit | SummedJointFit, norm: Norm) -> Solution | None:
        if not isinstance(fit.problem.reduction, DaskReduction):
            return super()._solve_by_sums(fit, norm)
        try:
            return fit.solve(norm, loss_tol=self.loss_tol)
        except LostClusterError as error:
            error.model = self._at_last(fit)
            raise

    def _at_last(self, fit: SummedFit | SummedJointFit) -> Self | None:
        """A classifier with the last predictor of a fit, whose own fit goes on from there."""
        if fit.last is None:
            return None
        model = clone(self).set_params(warm_start=True)
        fitted = {name: value for name, value in vars(self).items() if name not in vars(model)}
        model.__dict__.update(fitted)
        model._loss = fit.loss
        store_solution(model, fit.last_solution())
        return model

    # -- predictions and scores

    decision_function = _lazy("decision_function", "Scores <w, x> + b.", "(n_samples,)")
    predict = _lazy("predict", "Predict class labels.", "(n_samples,)")
    predict_log_proba = _lazy(
        "predict_log_proba",
        "Logarithms of the class probabilities under the loss.",
        "(n_samples, n_classes)",
    )
    predict_proba = _lazy(
        "predict_proba", "Class probabilities under the loss.", "(n_samples, n_classes)"
    )

    def certified_radius(self, X: Any, y: Any = None, **threat: Any) -> Any:
        """Distance of each sample to the decision boundary, negative where a label is mistaken.

        Parameters
        ----------
        X : dask array or frame, list of row sources, or data in memory
        y : of the kind of X, optional
            Row sources hold labels.
        **threat
            q, scale, clip and threat, as of `sklearn_robust.RobustLinearClassifier`; the threat of
            training by default.

        Returns
        -------
        dask array of shape (n_samples,), computed when it is asked for; or ndarray
        """
        return self._by_chunks("certified_radius", X, y, **threat)

    def perturb(self, X: Any, y: Any = None, **threat: Any) -> Any:
        """The worst-case points: each sample moved by the perturbation that makes its margin least.

        Parameters
        ----------
        X : dask array or frame, list of row sources, or data in memory
        y : of the kind of X
            None for row sources, which hold labels.
        **threat
            eps, q, scale, clip and threat, as of `sklearn_robust.RobustLinearClassifier`; the
            threat of training by default.

        Returns
        -------
        dask array of shape (n_samples, n_features), computed when it is asked for; or ndarray
        """
        if y is None and (is_collection(X) or not is_distributed(X)):
            raise ValueError("y must be given: the labels of the rows. Row sources hold theirs.")
        return self._by_chunks("perturb", X, y, **threat)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Accuracy.

        Parameters
        ----------
        X : dask array or frame, list of row sources, or data in memory
        y, sample_weight : of the kind of X, optional
            None for row sources, which hold labels and weights.

        Returns
        -------
        float
        """
        return self._average("score", X, y, sample_weight)

    def robust_score(
        self, X: Any, y: Any = None, sample_weight: Any = None, **threat: Any
    ) -> float:
        """Exact robust accuracy: the fraction of samples right under every perturbation.

        Parameters
        ----------
        X : dask array or frame, list of row sources, or data in memory
        y, sample_weight : of the kind of X, optional
            None for row sources, which hold labels and weights.
        **threat
            eps, q, scale and threat, as of `sklearn_robust.RobustLinearClassifier`; the threat of
            training by default.

        Returns
        -------
        float
        """
        return self._average("robust_score", X, y, sample_weight, **threat)

    def _average(self, name: str, X: Any, y: Any, sample_weight: Any, **threat: Any) -> float:
        """A score of the samples, of chunks where they lie."""
        check_is_fitted(self)
        model = self._on_one_machine()
        if not is_distributed(X):
            return getattr(model, name)(X, y, sample_weight, **threat)
        scorer = _Score(name, threat)
        return average_score(model, scorer, X, y, sample_weight, self.client)

    def _by_chunks(self, name: str, X: Any, *labels: Any, **threat: Any) -> Any:
        """What a method finds of X and its labels, lazily where X lies on a cluster."""
        check_is_fitted(self)
        model = self._on_one_machine()
        if not is_distributed(X):
            return getattr(model, name)(X, *labels, **threat)
        method = _Method(model, name, len(labels) > 0, threat)
        nameless = self._on_one_machine()
        nameless.__dict__.pop("feature_names_in_", None)
        sample = Block(np.zeros((1, self.n_features_in_)), self.classes_[:1])
        like = replace(method, model=nameless)(sample)[:0]
        return map_rows(X, method, like, *labels)

    def _on_one_machine(self) -> LocalClassifier:
        """The fitted classifier for arrays, which workers are sent."""
        model = LocalClassifier(**self._parameters())
        fitted = {name: value for name, value in vars(self).items() if name != "client"}
        model.__dict__.update(fitted)
        return model


@dataclass(frozen=True)
class _Score:
    """A score of a model, as a function of model and samples."""

    name: str
    threat: dict[str, Any]

    def __call__(self, model: Any, X: Any, y: Any, sample_weight: Any) -> float:
        return float(getattr(model, self.name)(X, y, sample_weight, **self.threat))


@dataclass(frozen=True)
class _Method:
    """A method of a model, as a function of a block: its X, and its labels where it takes them."""

    model: Any
    name: str
    takes_labels: bool
    threat: dict[str, Any]

    def __call__(self, block: Block) -> np.ndarray:
        y = None if block.y is None else block.labels
        method: Callable[..., np.ndarray] = getattr(self.model, self.name)
        return method(block.X, *([y] if self.takes_labels else []), **self.threat)
