"""Proofs of robustness for feed-forward ReLU networks in torch."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError(
        'Proofs for networks need PyTorch: python -m pip install "sklearn-robust[torch]"'
    ) from error

from sklearn_robust.verification.certified import certified_margins, certified_radius
from sklearn_robust.verification.exchange import save_onnx, vnnlib_property

__all__ = ["certified_margins", "certified_radius", "save_onnx", "vnnlib_property"]
