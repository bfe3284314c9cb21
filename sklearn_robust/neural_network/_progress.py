"""When the training of a network has ended."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust.neural_network._objective import constant_log_risk
from sklearn_robust.neural_network._training import Figures

VALIDATION = "validation_robust_accuracy"  # the figure of held-out samples
_LEARNT = 0.05  # nats below the log-risk of constant scores from which on a plateau counts


class Progress:
    """Decides when training has ended, and says so if it has not.

    It ends when the mean robust loss falls below `loss_tol`; or, with early stopping, when robust
    accuracy on held-out samples has not risen for `n_iter_no_change` epochs; or, without, when the
    log-risk has fallen by less than `tol` in as many epochs. Both rules wait until the training
    risk is below that of the best constant scores: networks can stay there for long before they
    learn.

    Parameters
    ----------
    settings : estimator
    class_weight : array of shape (K,)
        The total weight of each class.
    """

    def __init__(self, settings: Any, class_weight: np.ndarray) -> None:
        self.settings = settings
        self.constant = constant_log_risk(settings._loss, class_weight)
        self.best = -math.inf  # the best validation score, or the best of minus the log-risk
        self.waited = 0
        self.ended = False

    def note(self, figures: Figures) -> bool:
        """Take in the figures of an epoch; whether its validation score is the best so far."""
        self.last = figures
        log_risk = figures["log_risk"]
        score = figures.get(VALIDATION)
        if not log_risk < math.inf:
            self._warn(
                f"the robust risk became {log_risk} on the log scale. Scale the features, or "
                f"lower learning_rate."
            )
            self.ended = True
            return False
        value = -log_risk if score is None else score
        least_gain = self.settings.tol if score is None else 0.0
        better = value > self.best + least_gain
        if better:
            self.best = value
        endless = score is None and self.settings.tol == 0
        untaught = log_risk > self.constant - _LEARNT
        self.waited = 0 if better or endless or untaught else self.waited + 1
        self.ended = self._reached(log_risk) or self.waited >= self.settings.n_iter_no_change
        return better and score is not None

    def _reached(self, log_risk: float) -> bool:
        loss_tol = self.settings.loss_tol
        return log_risk < math.log(loss_tol) if loss_tol > 0 else log_risk == -math.inf

    def warn_unless_ended(self) -> None:
        """Warn where the epochs ran out."""
        if not self.ended:
            self._warn(
                f"max_iter={self.settings.max_iter} epochs ended before loss_tol or a plateau was "
                f"reached: log-risk {self.last['log_risk']:.3g}, robust training accuracy "
                f"{self.last['robust_accuracy']:.3f}. Increase max_iter, or loosen loss_tol or tol."
            )

    def _warn(self, message: str) -> None:
        warnings.warn(
            f"{type(self.settings).__name__}: {message}", ConvergenceWarning, stacklevel=6
        )
