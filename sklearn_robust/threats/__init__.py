r"""What the adversary may do: the interface of a set of perturbations, and the l_q ball.

A threat is a convex set U that holds 0; every sample x may become x + delta with delta in U. What
it takes from the margin of a predictor w is the support function

.. math:: \sigma(w) = \max_{\delta \in U} \langle w, \delta \rangle.

`Threat` is all that a set must offer. The other protocols are optional, and a solver names the one
that it needs by `require`. The functions of this module compute what a set leaves out.
"""

from sklearn_robust.threats._ball import (
    LpBall,
    check_radius,
    check_scale,
    is_ball,
)
from sklearn_robust.threats._checks import (
    check_is_threat,
    check_threat,
    offers,
    radius_of,
    require,
    require_ball,
    unit_threat,
)
from sklearn_robust.threats._derived import (
    descent_direction,
    face,
    gauge,
    has_exponent,
    inner_point,
    inside,
    mapped,
    reach,
    reachable,
    residual,
    rounds_powers,
    steepest_subgradient,
    support,
    support_sizes,
    takes_proximal_steps,
)
from sklearn_robust.threats._interface import (
    ConicSet,
    ConicThreat,
    KinkedThreat,
    ProximalThreat,
    Threat,
)

__all__ = [
    "ConicSet",
    "ConicThreat",
    "KinkedThreat",
    "LpBall",
    "ProximalThreat",
    "Threat",
    "check_is_threat",
    "check_radius",
    "check_scale",
    "check_threat",
    "descent_direction",
    "face",
    "gauge",
    "has_exponent",
    "inner_point",
    "inside",
    "is_ball",
    "mapped",
    "offers",
    "radius_of",
    "reach",
    "reachable",
    "require",
    "require_ball",
    "residual",
    "rounds_powers",
    "steepest_subgradient",
    "support",
    "support_sizes",
    "takes_proximal_steps",
    "unit_threat",
]

# pickles and lists of trusted types name the ball by this path
LpBall.__module__ = __name__
