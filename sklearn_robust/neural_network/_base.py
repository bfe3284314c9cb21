"""What every robust network does: read its data, train, and score."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from sklearn_robust._fits import all_or_nothing
from sklearn_robust._glance import DiagramMixin
from sklearn_robust._parameters import (
    Check,
    check_device,
    check_parameters,
    check_sample_weight,
    refuse_lazy,
)
from sklearn_robust.attacks.target import evaluating
from sklearn_robust.callbacks import CallbackSupportMixin, FitCallbacks, with_callbacks
from sklearn_robust.linear_model.base import loss_has_probabilities
from sklearn_robust.linear_model.reading import of_positive_weight
from sklearn_robust.losses import MarginLoss, check_loss, class_log_probabilities, log_odds
from sklearn_robust.neural_network._coordinates import Coordinates
from sklearn_robust.neural_network._data import LoadedData, LoadedSamples, Table, is_loaded
from sklearn_robust.neural_network._inner_maximisation import Samples
from sklearn_robust.neural_network._objective import NETWORK_LOSSES
from sklearn_robust.neural_network._progress import VALIDATION, Progress
from sklearn_robust.neural_network._ranks import ALONE, Ranks
from sklearn_robust.neural_network._robustness import RobustnessMixin, as_labels
from sklearn_robust.neural_network._saving import as_arrays, as_tensors, copied, packed, unpacked
from sklearn_robust.neural_network._sets import CutBalls
from sklearn_robust.neural_network._training import Figures, Trainer, seeded
from sklearn_robust.regions import Region
from sklearn_robust.threats import LpBall

_PREDICTED_ROWS = 2048  # at a time: bounds the memory that activations take


class RobustNetBase(
    RobustnessMixin, DiagramMixin, CallbackSupportMixin, ClassifierMixin, BaseEstimator, ABC
):
    """Training and prediction of a torch module; subclasses say which module, in `_new_module`."""

    _ranges: ClassVar[dict[str, Check]]
    _norm_over: ClassVar[str]  # the default of steepest descent
    _loss: MarginLoss
    _ranks: Ranks = ALONE
    # the optimiser, and what it remembers of each parameter
    _optimizer_state: tuple[Any, dict[Any, Any]]
    # those of training; None are those of the features
    _coordinates: Coordinates | None

    @abstractmethod
    def _new_module(self, input_shape: tuple[int, ...], n_outputs: int, seed: int) -> nn.Module:
        """A module that maps samples of this shape to so many outputs."""

    def _new_coordinates(self, data: Table | LoadedData) -> Coordinates | None:
        """The coordinates to train in; None are those of the features."""
        return None

    def _sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which the module takes one sample, given that of the data."""
        return (math.prod(shape),)

    @all_or_nothing
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train on data, from new weights or, with `warm_start`, from those of the last fit.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, channels, height, width), \
                or torch Dataset or DataLoader
            A Dataset or DataLoader has items (x, y) or (x, y, sample_weight). It is read once for
            labels and shapes, and then batch by batch in every epoch; the batches of a DataLoader
            are its own.
        y : array-like of shape (n_samples,)
            Labels of two or more classes, of any type. None where X brings them.
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative; a sample of weight zero is left out.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If parameters or data are not valid; with `warm_start`, also if y has other classes than
            in the last fit. The estimator then stays as it was, as after every error and after
            Ctrl-C.

        Warns
        -----
        ConvergenceWarning
            If training ended at `max_iter` with a risk above three quarters of that of constant
            scores; or, where the rate does not fall, before `loss_tol` was reached.
        UserWarning
            If torchrun started several processes, and `distributed` is False.
        """
        check_parameters(self, self._ranges)
        self._ranks = Ranks.of(self.distributed)
        resume = self.warm_start and hasattr(self, "module_")
        data = self._read(X, y, sample_weight, classes=None, resume=resume)
        present = self._ranks.union(np.unique(data.index))
        if resume and len(present) < len(self.classes_):
            raise ValueError(
                f"With warm_start=True y must have the classes of the last fit, "
                f"{self.classes_.tolist()}, got "
                f"{self.classes_[present].tolist()}. Use partial_fit, or warm_start=False."
            )
        self._resume() if resume else self._start(data)
        held_out = None
        if self.early_stopping:
            kept, left = train_test_split(
                np.arange(len(data.index)),
                test_size=self.validation_fraction,
                stratify=data.index,
                random_state=self._draw_seed(),
            )
            held_out = data.at(left).samples(self._samples)
            data = data.at(kept)
        samples = data.samples(self._samples)
        callbacks = FitCallbacks(self, X, y, sample_weight, self.max_iter)
        self._train(samples, held_out, callbacks)
        callbacks.end_fit()
        del self._ranks  # no part of the fitted network
        return self

    @all_or_nothing
    def partial_fit(
        self, X: Any, y: Any = None, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """One more epoch on these data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, channels, height, width), \
                or torch Dataset or DataLoader
        y : array-like of shape (n_samples,)
            None where X brings the labels.
        classes : array-like of shape (n_classes,), optional
            All labels that will ever be seen; needed in the first call where y does not hold them
            all. Later calls may leave it out, and cannot change it.
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If parameters or data are not valid, or `classes` are not those of the first call. The
            estimator then stays as it was, as after every error and after Ctrl-C.
        """
        check_parameters(self, self._ranges)
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not known to partial_fit. Pass sample_weight, or "
                "class_weight as a dict."
            )
        self._ranks = Ranks.of(self.distributed)
        resume = hasattr(self, "module_")
        data = self._read(X, y, sample_weight, classes=classes, resume=resume)
        self._resume() if resume else self._start(data)
        samples = data.samples(self._samples)
        with self._training(samples) as trainer, self._in_coordinates():
            figures = trainer.epoch(samples)
        self._record(figures)
        del self._ranks
        return self

    def _read(
        self, X: Any, y: Any, sample_weight: Any, *, classes: Any, resume: bool
    ) -> Table | LoadedData:
        """Validated data: samples, class indices and positive weights."""
        read = self._read_loaded if is_loaded(X) else self._read_table
        data = read(X, y, sample_weight, resume)
        check_classification_targets(data.labels)
        self._loss = check_loss(self.loss, "loss", NETWORK_LOSSES, like=torch.zeros(2))
        self._ranks.check_alike(shape=data.shape, dtype=data.first.dtype.name)
        if self.class_weight is not None:
            data = data.weighted(*self._class_factors(data.labels))
        present = self._ranks.union(np.unique(data.labels))
        if not resume:
            self.classes_ = present if classes is None else np.unique(classes)
            self._given_shape = data.shape
            self.input_shape_ = self._sample_shape(self._given_shape)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"classes={np.asarray(classes).tolist()} are not those of the first call, "
                f"{self.classes_.tolist()}. Leave "
                "classes out, or fit anew."
            )
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least two classes with positive "
                f"weight, got {len(self.classes_)} class: {self.classes_.tolist()}. Name all "
                "classes in the first partial_fit, classes=, or leave such data out."
            )
        unknown = np.setdiff1d(present, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y holds labels that are not in classes_ {self.classes_.tolist()}: "
                f"{unknown.tolist()}. Name all classes in the first partial_fit, classes=, or "
                "leave these samples out."
            )
        self._read_threat()
        return data.with_classes(self.classes_)

    def _read_threat(self) -> None:
        """The threat of the parameters: the object, or the ball of q_pert, eps, scale and clip."""
        if self.threat is None:
            self.scale_ = self._read_scale(self.scale)
            self.threat_ = LpBall(self.q_pert, self.eps, self.scale_)
            self._clip = self.clip
            return
        if self.scale is not None or self.clip is not None:
            raise ValueError(
                f"threat takes the place of q_pert, eps, scale and clip, got "
                f"threat={self.threat!r} beside scale={self.scale!r} and clip={self.clip!r}. Leave "
                f"out one or the others."
            )
        self.threat_ = self._bound(self.threat)
        self.scale_ = getattr(self.threat_, "scale", None)
        self._clip = None
        CutBalls.of(self.threat_, self.classes_.tolist())  # refuses what networks do not serve

    def _read_table(self, X: Any, y: Any, sample_weight: Any, resume: bool) -> Table:
        """Validated arrays."""
        refuse_lazy(X=X, y=y, sample_weight=sample_weight)
        X, shape = as_rows(X)
        if resume:
            self._check_shape(shape)
        X, y = validate_data(
            self, X, as_labels(y), dtype=(np.float64, np.float32), order="C", reset=not resume
        )
        weight = check_sample_weight(sample_weight, X, dtype=X.dtype)
        return Table(*of_positive_weight(X, y, weight), shape or X.shape[1:])

    def _read_loaded(self, X: Any, y: Any, sample_weight: Any, resume: bool) -> LoadedData:
        """What a Dataset or DataLoader brings, after its first reading."""
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(
                    f"{name} must be left out where X is a {type(X).__name__}, whose items hold "
                    f"labels and weights, got a {type(value).__name__}."
                )
        data = LoadedData(X, self.batch_size)
        if resume:
            self._check_shape(data.shape)
        validate_data(self, data.first, reset=not resume, skip_check_array=True)
        return data

    def _class_factors(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The labels of all processes, and the factor of `class_weight` on each."""
        present, counts = np.unique(labels, return_counts=True)
        known = self._ranks.union(present)
        counts_of_all = np.zeros(len(known))
        for those, numbers in self._ranks.gather((present, counts)):
            counts_of_all += np.bincount(np.searchsorted(known, those), numbers, len(known))
        factors = compute_class_weight(
            self.class_weight, classes=known, y=known, sample_weight=counts_of_all
        )
        return known, factors

    def _start(self, data: Table | LoadedData) -> None:
        """A new module and nothing remembered; the first row shows what it takes."""
        rows = data.first
        n_outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        self._rng = check_random_state(self.random_state)
        module = self._new_module(self.input_shape_, n_outputs, self._draw_seed())
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise ValueError(
                f"module must have parameters that can be trained, {type(module).__name__} has "
                f"none."
            )
        module = self._placed(module, torch.float64 if rows.dtype == np.float64 else torch.float32)
        with torch.no_grad():
            shape = tuple(module.eval()(inputs(module, rows[:1], self.input_shape_)).shape)
        allowed = ((1, 1), (1, 2)) if n_outputs == 1 else ((1, n_outputs),)
        if shape not in allowed:
            raise ValueError(
                f"module maps one sample of shape {self.input_shape_} to an output of shape "
                f"{shape}; for {len(self.classes_)} "
                f"classes it must be one of {list(allowed)}."
            )
        self._ranks.share_module(module)
        self.module_ = module
        self._optimizer_state = None, {}
        self._start_size = sum(float(p.detach().norm()) ** 2 for p in module.parameters())
        self._coordinates = self._new_coordinates(data)
        if self._coordinates is not None:
            self._coordinates.leave(module)
        self.n_iter_ = 0
        self.history_: dict[str, list[float]] = {}

    def _resume(self) -> None:
        """Copies of all that training overwrites: the last fit stays whole until this one has
        ended.
        """
        self.module_ = self._placed(copied(self.module_), None)
        self._ranks.share_module(self.module_)
        optimizer, state = self._optimizer_state
        self._optimizer_state = optimizer, copy.deepcopy(state)
        self._rng = copy.deepcopy(self._rng)
        self.history_ = copy.deepcopy(self.history_)

    def _placed(self, module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
        """The module on the device of this fit, in this dtype, or in its own."""
        device = find_device(self.device)
        return module.to(device=device, dtype=torch.float32 if device.type == "mps" else dtype)

    def _draw_seed(self) -> int:
        return int(self._rng.randint(np.iinfo(np.int32).max))

    def _samples(self, rows: np.ndarray, index: np.ndarray, weight: np.ndarray) -> Samples:
        """Rows as the module takes them, and where the adversary may move them."""
        x = inputs(self.module_, rows, self.input_shape_)
        eps, q, clip, scale = self._sets.of_samples(rows.reshape(x.shape), index).values()
        if np.ndim(eps):
            eps = torch.as_tensor(eps).to(x)
        region = Region(x, q, eps, clip, scale)  # names the features as they are in its errors
        z = self._coordinates
        if z is not None:
            x = inputs(self.module_, z.rows(rows), self.input_shape_)
            region = Region(x, q, eps, z.clip(clip), z.scale(scale))
        y = torch.as_tensor(index, device=x.device)
        return Samples(x, y, torch.as_tensor(weight, device=x.device, dtype=x.dtype), region)

    @contextmanager
    def _training(
        self, samples: Samples | LoadedSamples, epochs: int | None = None
    ) -> Iterator[Trainer]:
        """A trainer that goes on from the last call; afterwards the memory of its optimiser is
        kept.
        """
        trainer = Trainer.of(self, samples, self._draw_seed(), self._ranks, epochs=epochs)
        device = next(self.module_.parameters()).device
        with seeded(self._draw_seed() + self._ranks.rank, device):
            yield trainer
        self._optimizer_state = self.optimizer, trainer.optimizer.state_dict()["state"]

    def _in_coordinates(self) -> AbstractContextManager[None]:
        """The module takes samples in the coordinates of training for a while."""
        z = self._coordinates
        return nullcontext() if z is None else z.inside(self.module_)

    def _record(self, figures: Figures) -> None:
        """Add the figures of an epoch to the history."""
        for name, value in figures.items():
            self.history_.setdefault(name, []).append(value)
        with np.errstate(over="ignore"):
            self.loss_ = float(np.exp(figures["log_risk"]))
        self.n_iter_ += 1

    def _train(
        self,
        samples: Samples | LoadedSamples,
        held_out: Samples | LoadedSamples | None,
        callbacks: FitCallbacks,
    ) -> None:
        """Train until the progress ends, and go back to the best epoch on the held-out samples."""
        class_weight = sum(self._ranks.gather(samples.class_weight(len(self.classes_))))
        progress = Progress(self, class_weight)
        best_state = None
        self.n_iter_ = 0
        with self._training(samples, self.max_iter) as trainer:
            while not progress.ended and self.n_iter_ < self.max_iter:
                task = callbacks.begin("epoch")
                with self._in_coordinates():
                    figures = trainer.epoch(samples)
                    if held_out is not None:
                        figures[VALIDATION] = trainer.robust_accuracy(held_out)
                self._record(figures)
                if progress.note(figures):
                    best_state = copy.deepcopy(self.module_.state_dict())
                self._report(figures, progress.ended)
                fitted = {"module_": self.module_, "n_iter_": self.n_iter_}
                if self._ranks.any(callbacks.end(task, fitted)):
                    break
            else:
                progress.warn_unless_fitted()
        if best_state is not None:
            self.module_.load_state_dict(best_state)

    def _report(self, figures: Figures, ended: bool) -> None:
        """Print the figures of an epoch where `verbose` asks for it."""
        epoch = self.n_iter_
        rare = epoch.bit_count() == 1 or epoch == self.max_iter or ended  # 1, 2, 4, .. and the last
        if self.verbose and (rare if self.verbose == 1 else epoch % self.verbose == 0):
            print(
                f"epoch {self.n_iter_}: log-risk {figures['log_risk']:.4f}, accuracy "
                f"{figures['accuracy']:.3f}, robust accuracy {figures['robust_accuracy']:.3f}"
            )

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, channels, height, width)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            Two classes: positive means the second class of `classes_`.
        """
        check_is_fitted(self)
        return self._scores(self._rows(X))

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """The decision function of validated rows."""
        x = inputs(self.module_, rows, self.input_shape_)
        with torch.no_grad(), evaluating(self.module_):
            scores = (
                torch.cat([self.module_(part) for part in x.split(_PREDICTED_ROWS)]).cpu().numpy()
            )
        if len(self.classes_) > 2:
            return scores
        return scores[:, 0] if scores.shape[1] == 1 else scores[:, 1] - scores[:, 0]

    def _labels(self, scores: np.ndarray) -> np.ndarray:
        return self.classes_[
            (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        ]

    def _rows(self, X: Any) -> np.ndarray:
        refuse_lazy(X=X)
        X, shape = as_rows(X)
        self._check_shape(shape)
        return validate_data(self, X, dtype=(np.float64, np.float32), order="C", reset=False)

    def _check_shape(self, shape: tuple[int, ...] | None) -> None:
        """Samples that are no rows must have the shape of those of the fit: channels last are not
        channels first.
        """
        known = {self._given_shape, self.input_shape_}
        if shape is not None and shape not in known and any(len(seen) > 1 for seen in known):
            raise ValueError(
                f"X has samples of shape {shape}, but {type(self).__name__} was fitted on those of "
                f"{self._given_shape}: "
                "transpose them, or pass flat rows in the order of the fit."
            )

    def predict(self, X: Any) -> np.ndarray:
        """Predict class labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, channels, height, width)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return self._labels(self.decision_function(X))

    @available_if(loss_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities under the loss: the softmax of the scores, of twice the scores for
        the exponential loss.

        There is no such method with a loss that has no probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, channels, height, width)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return np.exp(self.predict_log_proba(X))

    @available_if(loss_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of the class probabilities, finite even where a probability itself is 0 or 1
        in floating point.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, channels, height, width)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        scores = self.decision_function(X)
        if scores.ndim > 1:
            return class_log_probabilities(self._loss, scores)
        odds = log_odds(self._loss, scores)
        return -np.logaddexp(0, np.column_stack([odds, -odds]))

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold modules and tensors as arrays, so that they load anywhere and
        equal ones hash alike.
        """
        state = super().__getstate__()
        modules = {
            name: packed(state[name])
            for name in ("module", "module_")
            if isinstance(state.get(name), nn.Module)
        }
        if "_optimizer_state" in state:
            modules["_optimizer_state"] = as_arrays(self._optimizer_state)
        return {**state, **modules}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make modules and tensors of arrays."""
        modules: dict[str, Any] = {
            n: unpacked(state[n]) for n in ("module", "module_") if isinstance(state.get(n), dict)
        }
        if "_optimizer_state" in state:
            modules["_optimizer_state"] = as_tensors(state["_optimizer_state"])
        super().__setstate__({**state, **modules})


def as_rows(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Data as rows that scikit-learn can validate, and the shape of one sample if it was not a
    row.
    """
    if isinstance(X, Tensor):
        X = X.detach().cpu()
        X = (X if X.dtype in (torch.float64, torch.float32) else X.float()).numpy()
    if isinstance(X, np.ndarray) and X.ndim > 2:
        return X.reshape(len(X), -1), X.shape[1:]
    return X, None


def inputs(module: nn.Module, rows: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """Rows as the module takes them, each of this shape, in its dtype and on its device."""
    parameter = next(module.parameters())
    if not rows.flags.writeable:
        rows = rows.copy()  # torch has no read-only tensors
    return torch.as_tensor(rows, device=parameter.device, dtype=parameter.dtype).view(-1, *shape)


def find_device(name: str | None) -> torch.device:
    """The device of that name; None is the CPU, "auto" the best that is there."""
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    check_device(name)
    return torch.device(name or "cpu")
