r"""Margins of a network's outputs, and the robust risk as a function of them.

Several classes: :math:`m = f_y - \log \sum_{k \ne y} e^{f_k}`, the smooth form of the lead over the
best rival, for which :math:`\log(1 + e^{-m})` is the cross-entropy and :math:`e^{-m} = \sum_{k \ne
y} e^{f_k - f_y}`. Two classes scored by one output f (as everywhere in scikit-learn, f > 0 is the
second class): :math:`m = \pm f`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from sklearn_robust.losses import LOSSES, MarginLoss, is_exponential, is_logistic

#: The cross-entropy is the logistic loss of the margin.
NETWORK_LOSSES: dict[str, MarginLoss] = {**LOSSES, "cross_entropy": LOSSES["logistic"]}


def soft_margins(outputs: Tensor, y: Tensor) -> Tensor:
    """The margin that the losses see, of shape (n,).

    Parameters
    ----------
    outputs : tensor of shape (n, K), or (n, 1) for two classes
    y : int tensor of shape (n,)
        Index of the true class.
    """
    if outputs.shape[1] == 1:
        return outputs[:, 0] * (2 * y - 1)
    rivals = outputs.scatter(1, y[:, None], -math.inf)
    return outputs.gather(1, y[:, None])[:, 0] - rivals.logsumexp(dim=1)


def margin_slopes(outputs: Tensor, y: Tensor) -> Tensor:
    """The derivatives of each sample's soft margin in its outputs, in the shape of the outputs."""
    if outputs.shape[1] == 1:
        return (2 * y - 1)[:, None].to(outputs)
    rivals = outputs.scatter(1, y[:, None], -math.inf).softmax(dim=1)
    return (-rivals).scatter_(1, y[:, None], 1.0)


def log_risk_and_slopes(
    loss: MarginLoss, outputs: Tensor, y: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    r"""The log-risk :math:`\log \sum_i s_i\, \ell(m_i)`, s the weights scaled to sum 1, and its
    derivatives in the outputs.

    The derivative of the log-risk in the margins is minus weights: those of a softmax for the
    exponential loss, the corresponding sigmoid weights for the logistic loss. Nothing underflows
    however small the risk is.
    """
    log_risk, weights = loss.log_risk_and_weights(
        soft_margins(outputs, y), torch.log(weight / weight.sum())
    )
    return log_risk, margin_slopes(outputs, y) * -weights[:, None]


def constant_log_risk(loss: MarginLoss, class_weight: np.ndarray) -> float:
    r"""The least log-risk of constant scores, :math:`\log \sum_k \pi_k\, \ell(m_k)`, from the
    weight of each class.

    It is the logarithm of the entropy of the classes for the logistic loss, and :math:`\log((\sum_k
    \sqrt{\pi_k})^2 - 1)` for the exponential loss. For others it is found by L-BFGS.

    Examples
    --------
    >>> import numpy as np
    >>> round(constant_log_risk(LOSSES["exponential"], np.array([50.0, 50.0])), 6)
    0.0
    """
    share = torch.from_numpy(class_weight[class_weight > 0] / class_weight.sum()).double()
    if len(share) == 1:
        return -math.inf
    if is_exponential(loss):
        root = share.sqrt()
        return float((root * (root.sum() - root)).sum().log())
    if is_logistic(loss):
        return float((-(share * share.log()).sum()).log())
    classes = torch.arange(len(share))

    def log_risk(scores: np.ndarray) -> tuple[float, np.ndarray]:
        outputs = torch.from_numpy(scores).expand(len(scores), -1)
        log_risk, slopes = log_risk_and_slopes(loss, outputs, classes, share)
        return float(log_risk), slopes.sum(dim=0).numpy()

    return float(
        minimize(
            log_risk, share.log().numpy(), jac=True, method="L-BFGS-B", options={"ftol": 1e-12}
        ).fun
    )
