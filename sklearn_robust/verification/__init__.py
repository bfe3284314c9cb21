"""Proofs of robustness for feed-forward ReLU networks in torch."""

from sklearn_robust._extras import missing

try:
    import torch as _torch  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise missing("sklearn_robust.verification", "torch") from error

from sklearn_robust.verification.certified import certified_margins, certified_radius
from sklearn_robust.verification.exchange import save_onnx, vnnlib_property

__all__ = ["certified_margins", "certified_radius", "save_onnx", "vnnlib_property"]
