"""What every robust network does: read its data, train, and score."""

from __future__ import annotations

import copy
import io
import math
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from sklearn_robust._documentation import DocLinkMixin
from sklearn_robust._parameters import check_choice, check_exponent, check_number, refuse_lazy
from sklearn_robust.attacks._losses import logit_margins
from sklearn_robust.callbacks import CallbackSupportMixin, FitCallbacks, with_callbacks
from sklearn_robust.neural_network._objective import NETWORK_LOSSES
from sklearn_robust.neural_network._passes import Passes, passes
from sklearn_robust.neural_network._progress import Progress
from sklearn_robust.neural_network._robustness import RobustnessMixin
from sklearn_robust.neural_network._training import (
    Epoch,
    InnerMaximisation,
    Samples,
    epoch_batches,
    run_epoch,
    seeded,
    step_size_rule,
)
from sklearn_robust.neural_network.optim import SteepestDescent
from sklearn_robust.threats import check_radius

_PREDICTED_ROWS = 2048  # at a time: bounds the memory that activations take


class RobustNetBase(RobustnessMixin, DocLinkMixin, CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """Training and prediction of a torch module; subclasses say which module, in `_new_module`."""

    _optimizer_state: tuple[Any, dict[Any, Any]]  # the optimiser, and what it remembers of each parameter

    def _new_module(self, input_shape: tuple[int, ...], n_outputs: int, seed: int) -> nn.Module:
        raise NotImplementedError

    def _sample_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which the module takes one sample, given that of the data."""
        return (math.prod(shape),)

    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on data, from new weights or, with `warm_start`, from those of the last fit.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or array or tensor of shape (n_samples, channels, height, width)
        y : array-like of shape (n_samples,)
            Labels of two or more classes, of any type.
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative; a sample of weight zero is left out.

        Returns
        -------
        self

        Warns
        -----
        ConvergenceWarning
            If training ended at `max_iter`, before `loss_tol` or a plateau was reached.
        """
        self._check_parameters()
        resume = self.warm_start and hasattr(self, "module_")
        rows, index, weight = self._read(X, y, sample_weight, classes=None, resume=resume)
        if not resume:
            self._start(rows)
        held_out = None
        if self.early_stopping:
            seed = self._rng.randint(np.iinfo(np.int32).max)
            kept, left = train_test_split(
                np.arange(len(rows)), test_size=self.validation_fraction, stratify=index, random_state=seed
            )
            held_out = self._samples(rows[left], index[left], weight[left])
            rows, index, weight = rows[kept], index[kept], weight[kept]
        callbacks = FitCallbacks(self, X, y, sample_weight, self.max_iter)
        self._train(self._samples(rows, index, weight), held_out, callbacks)
        callbacks.end_fit()
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One more epoch on these data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or array or tensor of shape (n_samples, channels, height, width)
        y : array-like of shape (n_samples,)
        classes : array-like of shape (n_classes,), optional
            All labels that will ever be seen; needed in the first call where y does not hold them all.
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        self
        """
        self._check_parameters()
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not known to partial_fit. Pass sample_weight, or class_weight as a dict."
            )
        resume = hasattr(self, "module_")
        rows, index, weight = self._read(X, y, sample_weight, classes=classes, resume=resume)
        if not resume:
            self._start(rows)
        data = self._samples(rows, index, weight)
        optimizer, rule, generator = self._ready(data)
        with seeded(self._rng.randint(np.iinfo(np.int32).max), data.x.device):
            self._one_epoch(passes(self.module_), data, optimizer, rule, generator)
        self._optimizer_state = self.optimizer, optimizer.state_dict()["state"]
        self.n_iter_ += 1
        return self

    def _read(
        self, X: Any, y: Any, sample_weight: Any, *, classes: Any, resume: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Validated rows (n, d), class indices and positive weights."""
        refuse_lazy(X=X, y=y, sample_weight=sample_weight)
        X, shape = as_rows(X)
        y = y.detach().cpu().numpy() if isinstance(y, Tensor) else y
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), order="C", reset=not resume)
        check_classification_targets(y)
        self.scale_ = self._scale(self.scale)
        weight = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
        used = weight > 0
        if not used.all():
            X, y, weight = X[used], y[used], weight[used]
        if self.class_weight is not None:
            weight = weight * compute_sample_weight(self.class_weight, y).astype(X.dtype)
        if not resume:
            self.classes_ = np.unique(y if classes is None else classes)
            self.input_shape_ = self._sample_shape(shape or X.shape[1:])
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least two classes with positive weight, got "
                f"{len(self.classes_)} class: {self.classes_.tolist()}."
            )
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y holds labels that are not in classes_ {self.classes_.tolist()}: {unknown.tolist()}.")
        return X, np.searchsorted(self.classes_, y), weight

    def _start(self, rows: np.ndarray) -> None:
        """A new module and nothing remembered."""
        self._rng = check_random_state(self.random_state)
        n_outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        module = self._new_module(self.input_shape_, n_outputs, self._rng.randint(np.iinfo(np.int32).max))
        device = find_device(self.device)
        dtype = torch.float64 if rows.dtype == np.float64 and device.type != "mps" else torch.float32
        self.module_ = module.to(device=device, dtype=dtype)
        self._optimizer_state = None, {}
        self._start_size = sum(float(p.detach().norm()) ** 2 for p in self.module_.parameters())
        self.n_iter_ = 0
        self.history_: dict[str, list[float]] = {}
        with torch.no_grad():
            shape = tuple(self.module_.eval()(self._tensor(rows[:1])).shape)
        allowed = ((1, 1), (1, 2)) if n_outputs == 1 else ((1, n_outputs),)
        if shape not in allowed:
            raise ValueError(
                f"module maps one sample of shape {self.input_shape_} to an output of shape {shape}; for {len(self.classes_)} "
                f"classes it must be one of {list(allowed)}."
            )

    def _tensor(self, rows: np.ndarray) -> Tensor:
        parameter = next(self.module_.parameters())
        if not rows.flags.writeable:
            rows = rows.copy()  # torch has no read-only tensors
        return torch.as_tensor(rows, device=parameter.device, dtype=parameter.dtype).view(-1, *self.input_shape_)

    def _samples(self, rows: np.ndarray, index: np.ndarray, weight: np.ndarray) -> Samples:
        x = self._tensor(rows)
        y, share = torch.as_tensor(index, device=x.device), torch.as_tensor(weight, device=x.device, dtype=x.dtype)
        return Samples(x, y, share, self._inner_maximisation().ball(x))

    def _ready(self, data: Samples) -> tuple[torch.optim.Optimizer, Any, torch.Generator]:
        """The optimiser as the last call left it, its step rule, and a generator for this call."""
        parameters = [parameter for parameter in self.module_.parameters() if parameter.requires_grad]
        options = dict(self.optimizer_params or {})
        if self.learning_rate != "auto":
            options["lr"] = self.learning_rate
        rule = None
        if self.optimizer == "steepest_descent":
            automatic = "lr" not in options
            options = {"lr": 1.0, "normalized": self.p_algo > 2, **options}
            descent = SteepestDescent(parameters, p=self.p_algo, **options)
            rule = step_size_rule(descent, data.x, data.weight, self._start_size) if automatic else None
            optimizer: torch.optim.Optimizer = descent
        else:
            optimizer = self.optimizer(parameters, **options)
        last, state = self._optimizer_state
        if last == self.optimizer:  # its options are those of today
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        generator = torch.Generator().manual_seed(self._rng.randint(np.iinfo(np.int32).max))
        return optimizer, rule, generator

    def _inner_maximisation(self) -> InnerMaximisation:
        steps = {"pgd": self.attack_steps, "fgsm": 1, None: 0}[self.attack]
        step_size = self.eps if self.attack == "fgsm" else self.attack_step_size
        return InnerMaximisation(
            self.q_pert,
            self.eps,
            self.clip,
            steps,
            step_size,
            self.attack_restarts,
            self.attack_random_start,
            self.scale_,
        )

    def _one_epoch(
        self, network: Passes, data: Samples, optimizer: torch.optim.Optimizer, rule: Any, generator: torch.Generator
    ) -> Epoch:
        epoch = run_epoch(
            network,
            optimizer,
            data,
            epoch_batches(len(data.x), self.batch_size, generator),
            loss=NETWORK_LOSSES[self.loss],
            attack=self._inner_maximisation(),
            before_step=rule,
            generator=generator,
        )
        self.module_.eval()
        figures = {
            "log_risk": epoch.log_risk,
            "accuracy": epoch.accuracy,
            "robust_accuracy": epoch.robust_accuracy,
            **epoch.normalized_margins,
        }
        for name, value in figures.items():
            self.history_.setdefault(name, []).append(value)
        with np.errstate(over="ignore"):
            self.loss_ = float(np.exp(epoch.log_risk))
        return epoch

    def _train(
        self,
        data: Samples,
        held_out: Samples | None,
        callbacks: FitCallbacks,
    ) -> None:
        optimizer, rule, generator = self._ready(data)
        network = passes(self.module_)
        progress = Progress(self, data.y, data.weight)
        best_state = None
        self.n_iter_ = 0
        with seeded(self._rng.randint(np.iinfo(np.int32).max), data.x.device):
            while not progress.ended and self.n_iter_ < self.max_iter:
                task = callbacks.begin("epoch")
                epoch = self._one_epoch(network, data, optimizer, rule, generator)
                self.n_iter_ += 1
                score = None
                if held_out is not None:
                    score = self._validate(network, held_out, generator)
                    self.history_.setdefault("validation_robust_accuracy", []).append(score)
                if progress.note(epoch, score):
                    best_state = copy.deepcopy(self.module_.state_dict())
                if self.verbose and self.n_iter_ % self.verbose == 0:
                    print(
                        f"epoch {self.n_iter_}: log-risk {epoch.log_risk:.4f}, accuracy {epoch.accuracy:.3f}, "
                        f"robust accuracy {epoch.robust_accuracy:.3f}"
                    )
                if callbacks.end(task, {"module_": self.module_, "n_iter_": self.n_iter_}):
                    break
            else:
                progress.warn_unless_ended()
        if best_state is not None:
            self.module_.load_state_dict(best_state)
        self._optimizer_state = self.optimizer, optimizer.state_dict()["state"]

    def _validate(self, network: Passes, held_out: Samples, generator: torch.Generator) -> float:
        worst, _ = self._inner_maximisation()(network, held_out, generator)
        robust = logit_margins(network.outputs(worst), held_out.y) > 0
        return float(held_out.weight[robust].sum() / held_out.weight.sum())

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or array or tensor of shape (n_samples, channels, height, width)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            Two classes: positive means the second class of `classes_`.
        """
        check_is_fitted(self)
        return self._scores(self._rows(X))

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """The decision function of validated rows."""
        with torch.no_grad():
            scores = torch.cat([self.module_(part) for part in self._tensor(rows).split(_PREDICTED_ROWS)]).cpu().numpy()
        if len(self.classes_) > 2:
            return scores
        return scores[:, 0] if scores.shape[1] == 1 else scores[:, 1] - scores[:, 0]

    def _labels(self, scores: np.ndarray) -> np.ndarray:
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    def _rows(self, X: Any) -> np.ndarray:
        refuse_lazy(X=X)
        X, _ = as_rows(X)
        return validate_data(self, X, dtype=(np.float64, np.float32), order="C", reset=False)

    def predict(self, X: Any) -> np.ndarray:
        """Predict class labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or array or tensor of shape (n_samples, channels, height, width)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return self._labels(self.decision_function(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities under the loss: the softmax of the scores, of twice the scores for the exponential loss.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or array or tensor of shape (n_samples, channels, height, width)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        scores = self.decision_function(X) * (2 if self.loss == "exponential" else 1)
        if scores.ndim == 1:
            scores = np.column_stack([np.zeros_like(scores), scores])
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold their tensors on the CPU, so that they load anywhere."""
        state = super().__getstate__()
        if "module_" in state and next(self.module_.parameters()).device.type != "cpu":
            state = {**state, **on_cpu({name: state[name] for name in ("module_", "_optimizer_state")})}
        return state

    def _check_parameters(self) -> None:
        check_exponent(self.p_algo, "p_algo")
        check_exponent(self.q_pert, "q_pert")
        check_radius(self.eps, "eps")
        check_choice(self.loss, "loss", NETWORK_LOSSES)
        check_choice(self.attack, "attack", ("pgd", "fgsm", None))
        check_number(self.attack_steps, "attack_steps", low=1, integer=True)
        check_number(self.attack_restarts, "attack_restarts", low=1, integer=True)
        check_choice(self.attack_random_start, "attack_random_start", (True, False))
        if self.attack_step_size is not None:
            check_number(self.attack_step_size, "attack_step_size", low=0, strict=True)
        if self.clip is not None and not (len(self.clip) == 2 and self.clip[0] < self.clip[1]):
            raise ValueError(f"clip must be None or a pair (low, high) with low < high, got {self.clip!r}.")
        if not callable(self.optimizer):
            check_choice(self.optimizer, "optimizer", ("steepest_descent",))
        if self.learning_rate != "auto":
            check_number(self.learning_rate, "learning_rate", low=0, strict=True)
        if self.batch_size is not None:
            check_number(self.batch_size, "batch_size", low=1, integer=True)
        check_number(self.max_iter, "max_iter", low=1, integer=True)
        check_number(self.loss_tol, "loss_tol", low=0)
        check_number(self.tol, "tol", low=0)
        check_number(self.n_iter_no_change, "n_iter_no_change", low=1, integer=True)
        check_choice(self.early_stopping, "early_stopping", (True, False))
        check_number(self.validation_fraction, "validation_fraction", low=0, strict=True)
        check_choice(self.warm_start, "warm_start", (True, False))
        check_number(self.verbose, "verbose", low=0, integer=True)


def as_rows(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Data as rows that scikit-learn can validate, and the shape of one sample if it was not a row."""
    if isinstance(X, Tensor):
        X = X.detach().cpu()
        X = (X if X.dtype in (torch.float64, torch.float32) else X.float()).numpy()
    if isinstance(X, np.ndarray) and X.ndim > 2:
        return X.reshape(len(X), -1), X.shape[1:]
    return X, None


def on_cpu(value: Any) -> Any:
    """A copy of anything that torch can save, with every tensor in it on the CPU."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, map_location="cpu", weights_only=False)


def find_device(name: str | None) -> torch.device:
    """The device of that name; None is the CPU, "auto" the best that is there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name or "cpu")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name!r} is not available: {error} Use None, 'cpu', or 'auto'.") from error
    return device
