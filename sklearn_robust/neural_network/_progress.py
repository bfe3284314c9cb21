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
_LEARNT = 0.05  # nats below the log-risk of constant scores from which on early stopping counts
_FITTED = 0.75  # share of the risk of constant scores: the most with which training can have fitted


class Progress:
    """Decides when training has ended, and says so if it has not fitted.

    It ends when the mean robust loss falls below `loss_tol`; or, with early stopping, when robust
    accuracy on held-out samples has not risen for `n_iter_no_change` epochs. That rule waits until
    the training risk is below that of the best constant scores: networks can stay there for long
    before they learn. A rate that falls has its say until the last epoch, so that no plateau before
    it means anything.

    Parameters
    ----------
    settings : estimator
    class_weight : array of shape (K,)
        The total weight of each class.
    """

    def __init__(self, settings: Any, class_weight: np.ndarray) -> None:
        self.settings = settings
        self.constant = constant_log_risk(settings._loss, class_weight)
        self.best = -math.inf  # the best validation score
        self.waited = 0
        self.ended = False

    def note(self, figures: Figures) -> bool:
        """Take in the figures of an epoch; whether its validation score is the best so far."""
        self.last = figures
        log_risk = figures["log_risk"]
        if not log_risk < math.inf:
            self._warn(
                f"the robust risk became {log_risk} on the log scale. Scale the features, or "
                f"lower learning_rate."
            )
            self.ended = True
            return False
        score = figures.get(VALIDATION, -math.inf)
        better = score > self.best
        self.best = max(score, self.best)
        untaught = VALIDATION not in figures or log_risk > self.constant - _LEARNT
        self.waited = 0 if better or untaught else self.waited + 1
        patience = self.settings.n_iter_no_change
        self.ended = self._reached(log_risk) or (patience is not None and self.waited >= patience)
        return better

    def _reached(self, log_risk: float) -> bool:
        loss_tol = self.settings.loss_tol
        return log_risk < math.log(loss_tol) if loss_tol > 0 else log_risk == -math.inf

    def warn_unless_fitted(self) -> None:
        """Warn where training has not fitted in all of its epochs, or might have gone on."""
        if self.ended:
            return
        share = math.exp(min(self.last["log_risk"] - self.constant, 100.0))
        figures = (
            f"log-risk {self.last['log_risk']:.3g}, robust training accuracy "
            f"{self.last['robust_accuracy']:.3f}"
        )
        if share > _FITTED:
            self._warn(
                f"after max_iter={self.settings.max_iter} epochs the robust training risk is "
                f"{100 * share:.3g} % of that of constant scores, which know no feature: "
                f"{figures}. "
                f"Such an eps may leave no better classifier; lower it, or increase max_iter, "
                f"learning_rate or the size of the network."
            )
        elif self.settings.schedule != "linear":
            self._warn(
                f"max_iter={self.settings.max_iter} epochs ended before loss_tol was reached: "
                f"{figures}. Increase max_iter, or loosen loss_tol."
            )

    def _warn(self, message: str) -> None:
        warnings.warn(
            f"{type(self.settings).__name__}: {message}", ConvergenceWarning, stacklevel=6
        )
