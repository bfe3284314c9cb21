"""The threat of a call, as it is given: an l_q ball by eps, q, scale and clip, or an object."""

from __future__ import annotations

import math
from typing import Any

from sklearn_robust.threats import check_is_threat, check_radius, is_ball


def given_radius(eps: float | None) -> float:
    """The radius that scores, of a call without a threat."""
    if eps is None:
        raise ValueError(
            "eps, the radius of the l_q ball, or threat must be given, got neither. Use eps=0 for "
            "the accuracy without an adversary."
        )
    return check_radius(eps, "eps")


def check_lone_threat(threat: Any, *, eps: Any, q: float, scale: Any, clip: Any) -> None:
    """Refuse what is no threat, and eps, q, scale or clip beside one."""
    check_is_threat(threat)
    if eps is not None or q != math.inf or scale is not None or clip is not None:
        raise ValueError(
            f"threat takes the place of eps, q and scale, and of clip, got threat={threat!r} "
            f"beside eps={eps!r}, q={q!r}, scale={scale!r} and clip={clip!r}. Leave out one or the "
            f"others."
        )


def network_threat(
    classifier: Any,
    *,
    eps: Any,
    q: float,
    space: str,
    scale: Any,
    threat: Any,
    clip: Any,
    sample_radius: Any,
) -> dict[str, Any]:
    """The threat as the score of a network takes it."""
    name = type(classifier).__name__
    if clip is not None:
        raise ValueError(
            f"clip is a parameter of {name} itself, whose score takes the limits of its fit, got "
            f"clip={clip!r}. Leave it out here."
        )
    if sample_radius is not None:
        raise ValueError(
            f"sample_radius is for linear classifiers, and the score of {name} takes one radius "
            f"for all samples. Score groups of samples of one radius with eps."
        )
    if is_ball(threat):
        eps, q = threat.eps, threat.q
        scale = threat.scale
    elif threat is not None:
        return {"threat": threat}
    given = {"eps": eps, "q": q}
    # a classifier that was trained with scales is given their absence, too
    if scale is not None or hasattr(classifier, "scale_"):
        given["scale"] = scale
    return given
