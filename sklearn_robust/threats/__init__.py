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
from sklearn_robust.threats._boxes import Box
from sklearn_robust.threats._budgets import FeatureBudget
from sklearn_robust.threats._categories import OneHot
from sklearn_robust.threats._checks import (
    bound_threat,
    check_is_threat,
    check_sample_radius,
    check_threat,
    offers,
    radius_of,
    require,
    require_ball,
    unit_threat,
)
from sklearn_robust.threats._combinations import ByClass, Sum, Union
from sklearn_robust.threats._derived import (
    descent_direction,
    face,
    feature_reach,
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
    support_sizes,
    takes_proximal_steps,
)
from sklearn_robust.threats._images import Ellipsoid, LinearImage
from sklearn_robust.threats._interface import (
    ConicSet,
    ConicThreat,
    KinkedThreat,
    ProximalThreat,
    Threat,
)
from sklearn_robust.threats._intersections import Intersection
from sklearn_robust.threats._limits import check_limits, without_limits
from sklearn_robust.threats._members import (
    Nothing,
    at,
    bind,
    columns_of,
    is_by_class,
    is_convex,
    is_per_sample,
    is_solid,
    of_class,
    reaches,
    support,
    supports,
    times,
)
from sklearn_robust.threats._mixin import ThreatMixin
from sklearn_robust.threats._relations import Relations

__all__ = [
    "Box",
    "ByClass",
    "ConicSet",
    "ConicThreat",
    "Ellipsoid",
    "FeatureBudget",
    "Intersection",
    "KinkedThreat",
    "LinearImage",
    "LpBall",
    "Nothing",
    "OneHot",
    "ProximalThreat",
    "Relations",
    "Sum",
    "Threat",
    "ThreatMixin",
    "Union",
    "at",
    "bind",
    "bound_threat",
    "check_is_threat",
    "check_limits",
    "check_radius",
    "check_sample_radius",
    "check_scale",
    "check_threat",
    "columns_of",
    "descent_direction",
    "face",
    "feature_reach",
    "gauge",
    "has_exponent",
    "inner_point",
    "inside",
    "is_ball",
    "is_by_class",
    "is_convex",
    "is_per_sample",
    "is_solid",
    "mapped",
    "of_class",
    "offers",
    "radius_of",
    "reach",
    "reachable",
    "reaches",
    "require",
    "require_ball",
    "residual",
    "rounds_powers",
    "steepest_subgradient",
    "support",
    "support_sizes",
    "supports",
    "takes_proximal_steps",
    "times",
    "unit_threat",
    "without_limits",
]

# pickles and lists of trusted types name the sets by this path
for _set in (
    Box,
    ByClass,
    Ellipsoid,
    FeatureBudget,
    Intersection,
    LinearImage,
    LpBall,
    OneHot,
    Relations,
    Sum,
    Union,
):
    _set.__module__ = __name__
