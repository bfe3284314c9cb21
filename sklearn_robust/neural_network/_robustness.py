"""How robust a fitted network is against balls and boxes: its accuracy under attack, and bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sklearn_robust._parameters import (
    check_choice,
    check_exponent,
    check_sample_weight,
    class_index,
    is_training,
    read_scale,
    refuse_lazy,
)
from sklearn_robust.attacks.auto_pgd import apgd
from sklearn_robust.attacks.combined import ensemble
from sklearn_robust.attacks.gradient import pgd
from sklearn_robust.neural_network._sets import CutBalls
from sklearn_robust.threats import LpBall, Threat, bound_threat, check_radius
from sklearn_robust.verification import certified_margins, certified_radius

_ATTACKS: dict[str, Callable[..., Any]] = {"ensemble": ensemble, "apgd": apgd, "pgd": pgd}
_STEPS = 100  # steps of apgd and pgd; the ensemble has its own
_CERTIFIED_ROUNDING = 1e-6  # share of the radius by which an attack in float32 may leave the ball


class RobustnessMixin:
    """Bounds on robust accuracy from above, by attack, and from below, by certificate.

    Networks serve l_q balls and boxes: attacks and certificates project on balls that are cut by
    boxes. What the mixin needs of the estimator is declared below.
    """

    module_: nn.Module
    classes_: np.ndarray
    input_shape_: tuple[int, ...]
    threat_: Any
    _clip: tuple[float, float] | None
    n_features_in_: int
    predict: Callable[[Any], np.ndarray]
    _rows: Callable[[Any], np.ndarray]
    _scores: Callable[[np.ndarray], np.ndarray]
    _labels: Callable[[np.ndarray], np.ndarray]

    def robust_score(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        eps: float | None = None,
        q: float | None = None,
        scale: Any = "training",
        threat: Threat | None = None,
        attack: str = "ensemble",
        n_steps: int | None = None,
        n_restarts: int = 1,
        n_targets: int | None = None,
        loss: str | None = None,
        batch_size: int | None = None,
        random_state: Any = 0,
    ) -> float:
        """Accuracy that an attack leaves: an upper bound on the robust accuracy.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, channels, height, width)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), optional
        eps, q : float, optional
            The threat; that of training by default. `clip` holds here too.
        scale : "training", None, array-like (n_features,) or of a sample, dict, default="training"
            How far the adversary can move each feature, as in training by default; None moves all
            alike.
        threat : LpBall, Box, or one of these for some classes, optional
            The set of perturbations as an object, in place of eps, q and scale. `clip` holds beside
            one without limits of its own.
        attack : {"ensemble", "apgd", "pgd"}, default="ensemble"
            The functions of `sklearn_robust.attacks`; "ensemble" is the strongest.
        n_steps : int, optional
            By default those of the ensemble, and 100 of the others.
        n_targets, loss : optional
            As in the attack, whose defaults hold where they are None.
        n_restarts, batch_size, random_state
            As in `sklearn_robust.attacks.pgd`.

        Returns
        -------
        float
        """
        options = _attack_options(n_steps, n_restarts, n_targets, loss, batch_size, random_state)
        kept = self._survivors(X, y, self._judging(eps, q, scale, threat), attack, options)
        return weighted_share(kept, sample_weight)

    def certified_score(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        eps: float | None = None,
        q: float | None = None,
        scale: Any = "training",
        threat: Threat | None = None,
        method: str = "crown",
    ) -> float:
        """Accuracy that is proved to be left by every attack: a lower bound on the robust accuracy.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, channels, height, width)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), optional
        eps, q : float, optional
            The threat; that of training by default. `clip` holds here too.
        scale : "training", None, array-like (n_features,) or of a sample, dict, default="training"
            As in `robust_score`.
        threat : LpBall, Box, or one of these for some classes, optional
            As in `robust_score`.
        method : {"interval", "crown-ibp", "crown", "alpha-crown", "exact"}, default="crown"
            As in `sklearn_robust.verification.certified_margins`.

        Returns
        -------
        float

        Raises
        ------
        TypeError
            If the module has a layer for which no bounds are known: it must be a
            `torch.nn.Sequential` of linear and convolutional layers, ReLUs and pooling.
        """
        certified = self._certified(X, y, self._judging(eps, q, scale, threat), method)
        return weighted_share(certified, sample_weight)

    def robust_bounds(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        eps: float | None = None,
        q: float | None = None,
        scale: Any = "training",
        threat: Threat | None = None,
        attack: str = "ensemble",
        method: str = "crown",
        n_steps: int | None = None,
        n_restarts: int = 1,
        n_targets: int | None = None,
        loss: str | None = None,
        batch_size: int | None = None,
        random_state: Any = 0,
    ) -> tuple[float, float]:
        """Both bounds on the robust accuracy; it lies between them.

        Parameters
        ----------
        X, y, sample_weight, eps, q, scale, threat, attack, method, n_steps, n_restarts, n_targets
            As in `robust_score` and `certified_score`.
        loss, batch_size, random_state
            As in `robust_score` and `certified_score`.

        Returns
        -------
        certified, attacked : float

        Raises
        ------
        RuntimeError
            If a sample is certified that the attack breaks: the certificates are then not those of
            the module.
        """
        sets = self._judging(eps, q, scale, threat)
        options = _attack_options(n_steps, n_restarts, n_targets, loss, batch_size, random_state)
        certified = self._certified(X, y, sets, method)
        kept = self._survivors(X, y, sets, attack, options)
        crossed = np.count_nonzero(certified & ~kept)
        if crossed:
            raise RuntimeError(
                f"{crossed} of {len(kept)} samples are certified and broken by the attack: "
                f"certified accuracy would exceed "
                "attacked accuracy. The certificates are not those of this module: it is misread, "
                "or its arithmetic is coarser "
                "than the type of its parameters (TF32, autocast). Judge it on the CPU, and please "
                "report the module."
            )
        return weighted_share(certified, sample_weight), weighted_share(kept, sample_weight)

    def certified_radius(
        self,
        X: Any,
        y: Any = None,
        *,
        q: float | None = None,
        scale: Any = "training",
        method: str = "crown",
        max_radius: float = 1.0,
        tol: float = 1e-4,
    ) -> np.ndarray:
        """A radius around each sample within which its class is proved not to change.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, channels, height, width)
        y : array-like of shape (n_samples,), optional
            True labels: the radius is then 0 where the prediction is wrong. By default the
            predicted ones.
        q : float, optional
            Exponent of the norm; that of training by default. `clip` holds here too. After a fit
            against a Box the radius is the factor on it.
        scale : "training", None, array-like (n_features,) or of a sample, dict, default="training"
            As in `robust_score`; the radius is in units of it.
        method, max_radius, tol
            As in `sklearn_robust.verification.certified_radius`.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        inputs, index, _ = self._judged(X, self.predict(X) if y is None else y)
        sets = self._judging(None, q, scale, None, radius=1.0).of_any_factor()
        known = index >= 0
        radii = np.zeros(len(index))
        if known.any():
            ball = sets.of_samples(inputs[known], index[known])
            del ball["eps"]
            radii[known] = certified_radius(
                self.module_,
                inputs[known],
                index[known],
                **ball,
                method=method,
                max_radius=max_radius,
                tol=tol,
            )
        return radii

    def perturb(
        self,
        X: Any,
        y: Any,
        *,
        eps: float | None = None,
        q: float | None = None,
        scale: Any = "training",
        threat: Threat | None = None,
        attack: str = "ensemble",
        n_steps: int | None = None,
        n_restarts: int = 1,
        n_targets: int | None = None,
        loss: str | None = None,
        batch_size: int | None = None,
        random_state: Any = 0,
    ) -> np.ndarray:
        """The worst points that an attack finds.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, channels, height, width)
        y : array-like of shape (n_samples,)
            True labels, each one of `classes_`.
        eps, q, scale, threat, attack, n_steps, n_restarts, n_targets
            As in `robust_score`.
        loss, batch_size, random_state
            As in `robust_score`.

        Returns
        -------
        ndarray
            In the shape of X. A sample that is broken on the way is left at the point that breaks
            it.
        """
        judged = self._judged(X, y)
        inputs = judged[0]
        options = _attack_options(n_steps, n_restarts, n_targets, loss, batch_size, random_state)
        sets = self._judging(eps, q, scale, threat)
        points = self._attacked(*judged, sets, attack, options)
        return points.reshape(X.shape if getattr(X, "ndim", 2) > 2 else (len(inputs), -1))

    def _attacked(
        self,
        inputs: np.ndarray,
        index: np.ndarray,
        labels: np.ndarray,
        sets: CutBalls,
        attack: str,
        options: dict[str, Any],
    ) -> np.ndarray:
        check_choice(attack, "attack", _ATTACKS)
        if attack != "ensemble":
            options = {"n_steps": _STEPS, **options}
        return _ATTACKS[attack](self, inputs, labels, **sets.of_samples(inputs, index), **options)

    def _survivors(
        self, X: Any, y: Any, sets: CutBalls, attack: str, options: dict[str, Any]
    ) -> np.ndarray:
        """Which samples are classified rightly, at the point where the attack leaves them."""
        inputs, index, labels = self._judged(X, y)
        # inputs without the names of a frame
        kept = (index >= 0) & (self._labels(self._scores(inputs)) == labels)
        if kept.any():
            points = self._attacked(inputs[kept], index[kept], labels[kept], sets, attack, options)
            kept[kept] = self._labels(self._scores(points)) == labels[kept]
        return kept

    def _certified(self, X: Any, y: Any, sets: CutBalls, method: str) -> np.ndarray:
        """Which samples are proved to be classified rightly, whatever the attack."""
        inputs, index, _ = self._judged(X, y)
        known = index >= 0
        proved = np.zeros(len(index), dtype=bool)
        if known.any():
            # attacks in float32 may leave the ball by rounding
            ball = sets.times(1 + _CERTIFIED_ROUNDING).of_samples(inputs[known], index[known])
            margins = certified_margins(
                self.module_, inputs[known], index[known], method=method, **ball
            )
            proved[known] = margins > 0
        return proved

    def _judged(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs of the module, index of each label (-1 where it was never seen: always wrong), and
        labels.
        """
        check_is_fitted(self)
        refuse_lazy(y=y)
        rows = self._rows(X)
        y = column_or_1d(as_labels(y))
        check_consistent_length(rows, y)
        index = class_index(y, self.classes_)
        return rows.reshape(-1, *self.input_shape_), index, y

    def _judging(
        self,
        eps: float | None,
        q: float | None,
        scale: Any,
        threat: Threat | None,
        *,
        radius: float | None = None,
    ) -> CutBalls:
        """The sets of these parameters; those of training by default.

        `radius` is that of a ball where neither eps nor the threat of training has one.
        """
        check_is_fitted(self)
        given = eps is not None or q is not None or not is_training(scale)
        if threat is not None:
            if given:
                raise ValueError(
                    f"threat takes the place of eps, q and scale, got threat={threat!r} beside "
                    f"eps={eps!r}, q={q!r} and scale={scale!r}. Leave out one or the others."
                )
            return self._within(self._bound(threat))
        trained = self.threat_
        if not given:
            return self._sets
        ball = trained if isinstance(trained, LpBall) else None
        if ball is None and (q is None or (eps is None and radius is None)):
            raise ValueError(
                f"eps and q must be given for an l_q ball, which the threat of training, "
                f"{type(trained).__name__}, is not."
            )
        if ball is None:
            ball = LpBall(check_exponent(q, "q"), radius if eps is None else eps)
        return self._within(
            LpBall(
                ball.q if q is None else check_exponent(q, "q"),
                ball.eps if eps is None else check_radius(eps, "eps"),
                ball.scale if is_training(scale) else self._read_scale(scale),
                ball.clip,
            )
        )

    @property
    def _sets(self) -> CutBalls:
        """The sets of training."""
        return self._within(self.threat_)

    def _within(self, threat: Any) -> CutBalls:
        """The sets of a bound threat, in the limits of training where it has none."""
        sets = CutBalls.of(threat, self.classes_.tolist())
        return replace(sets, clip=self._clip) if sets.clip is None else sets

    def _bound(self, threat: Any) -> Any:
        """The threat on the features and classes of the fit."""
        names = getattr(self, "feature_names_in_", None)
        return bound_threat(threat, self.n_features_in_, names, self.classes_.tolist())

    def _read_scale(self, scale: Any) -> np.ndarray | None:
        """The scale of each feature; one of a sample's shape is laid flat."""
        if scale is not None and not isinstance(scale, (Mapping, str)):
            scale = np.asarray(scale.detach().cpu() if isinstance(scale, Tensor) else scale)
            scale = scale.reshape(-1) if scale.ndim > 1 else scale
        return read_scale(scale, self.n_features_in_, getattr(self, "feature_names_in_", None))


def as_labels(y: Any) -> Any:
    """Labels without missing ones, of which scikit-learn has no clear message where they are
    objects; tensors as arrays.
    """
    y = y.detach().cpu().numpy() if isinstance(y, Tensor) else y
    labels = np.asarray(y)
    objects = labels.ravel() if labels.ndim and labels.dtype == object else ()
    missing = [
        label for label in objects if label is None or type(label).__name__ in ("NAType", "NaTType")
    ]
    if missing:
        raise ValueError(
            f"y must hold a label for each sample, but {len(missing)} are missing "
            f"({missing[0]!r}). Leave them out."
        )
    return y


def _attack_options(
    n_steps: int | None,
    n_restarts: int,
    n_targets: int | None,
    loss: str | None,
    batch_size: int | None,
    random_state: Any,
) -> dict[str, Any]:
    """The keywords of an attack beside its threat; its defaults hold for those that are None."""
    own = {"n_steps": n_steps, "n_targets": n_targets, "loss": loss}
    return {
        **{name: value for name, value in own.items() if value is not None},
        "n_restarts": n_restarts,
        "batch_size": batch_size,
        "random_state": random_state,
    }


def weighted_share(chosen: np.ndarray, sample_weight: Any) -> float:
    """The share of the samples that are chosen."""
    return float(np.average(chosen, weights=check_sample_weight(sample_weight, chosen)))
