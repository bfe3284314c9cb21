r"""Certificates of predictors and weights: proofs of the margin and of the risk.

**Margin.** For weights a of the simplex (with an intercept also :math:`\sum_i a_i y_i = 0`) and
:math:`g = Z^T a`, the largest robust margin :math:`\gamma = \max_{\|w\|_p \le 1} \min_i z_i \cdot w
- \epsilon \|w\|_{q^*}` obeys

.. math:: \min_i m_i(w) / \|w\|_p \;\le\; \gamma \;\le\; D(a) = \min_{\|\delta\|_q \le \epsilon} \|g
   - \delta\|_{p^*},

with equality at the optimum. :math:`\|Z^T a\|_q \le \epsilon` proves that no robust separator
exists. Where features have scales s, the norms of the threat are :math:`\|s w\|_{q^*}` and
:math:`\|\delta / s\|_q`: a proof of non-separability then has :math:`(Z^T a)_j = 0`, up to
rounding, for the features that the adversary cannot touch.

**Risk.** Where none exists the risk has a minimiser; weights with :math:`\|Z^T a\|_q \le \epsilon
\sum_i a_i` bound it from below by Fenchel duality: :math:`-KL(a \| s)` bounds the log of the
exponential risk, :math:`\sum_i s_i H(a_i / s_i)` the logistic risk.
"""

from sklearn_robust.certificates._certify import (
    Certified,
    Point,
    best_intercept,
    certify,
    exponent_rounding,
    inside_up_to_rounding,
    log_risk_bound,
    margin_bound,
    margin_rounding,
    non_separability_slack,
    norm_rounding,
    over_size,
    proves_not_separable,
    relative_gap,
    robust_margin,
    sum_rounding,
)
from sklearn_robust.certificates._repair import cancelling_weights, repaired_weights

__all__ = [
    "Certified",
    "Point",
    "best_intercept",
    "cancelling_weights",
    "certify",
    "exponent_rounding",
    "inside_up_to_rounding",
    "log_risk_bound",
    "margin_bound",
    "margin_rounding",
    "non_separability_slack",
    "norm_rounding",
    "over_size",
    "proves_not_separable",
    "relative_gap",
    "repaired_weights",
    "robust_margin",
    "sum_rounding",
]
