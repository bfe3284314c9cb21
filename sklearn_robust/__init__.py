"""scikit-learn estimators that are trained against worst-case perturbations, with proof of how good
the answer is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "ConstantClassifierWarning": "linear_model",
    "MinNormRobustClassifier": "linear_model",
    "NotSeparableWarning": "linear_model",
    "RobustLinearClassifier": "linear_model",
    "RobustLinearClassifierCV": "linear_model",
    "RobustLinearPath": "linear_model",
    "robust_linear_path": "linear_model",
    "training_radii": "linear_model",
    "RobustDiagonalNet": "neural_network",
    "RobustMLPClassifier": "neural_network",
    "RobustNetClassifier": "neural_network",
    "NotSeparableError": "separators",
    "Separator": "separators",
    "max_margin": "separators",
    "min_norm_separator": "separators",
    "separator_path": "separators",
    "PathRecorder": "callbacks",
    "certified_radius": "metrics",
    "make_robust_scorer": "metrics",
    "robust_accuracy_score": "metrics",
    "robust_accuracy_certificate": "metrics",
    "Certificate": "proofs",
    "CertificateError": "proofs",
    "RobustnessReport": "reports",
    "ConvergenceDisplay": "inspection",
    "ImplicitBiasReport": "inspection",
    "RobustAccuracyDisplay": "inspection",
    "SeparatorDisplay": "inspection",
    "implicit_bias_report": "inspection",
    "make_teacher_classification": "datasets",
    "adversarial_rademacher_bound": "theory",
    "margin_generalization_bound": "theory",
    "mixed_norm_weight": "theory",
    "rademacher_bound": "theory",
    "register_onnx_converters": "onnx",
    "robust_generalization_bound": "theory",
}
_MODULES = {
    "attacks",
    "balancing",
    "callbacks",
    "certificates",
    "check",
    "conformal",
    "datasets",
    "distributed",
    "inspection",
    "joint",
    "joint_certificates",
    "linear_model",
    "losses",
    "metrics",
    "neural_network",
    "norms",
    "onnx",
    "problems",
    "proofs",
    "regions",
    "reports",
    "rows",
    "scaled_norms",
    "separators",
    "solvers",
    "splitting",
    "summed",
    "theory",
    "threats",
    "total_variation",
    "verification",
}

__all__ = [
    "Certificate",
    "CertificateError",
    "ConstantClassifierWarning",
    "ConvergenceDisplay",
    "ImplicitBiasReport",
    "MinNormRobustClassifier",
    "NotSeparableError",
    "NotSeparableWarning",
    "PathRecorder",
    "RobustAccuracyDisplay",
    "RobustDiagonalNet",
    "RobustLinearClassifier",
    "RobustLinearClassifierCV",
    "RobustLinearPath",
    "RobustMLPClassifier",
    "RobustNetClassifier",
    "RobustnessReport",
    "Separator",
    "SeparatorDisplay",
    "adversarial_rademacher_bound",
    "certified_radius",
    "implicit_bias_report",
    "make_robust_scorer",
    "make_teacher_classification",
    "margin_generalization_bound",
    "max_margin",
    "min_norm_separator",
    "mixed_norm_weight",
    "rademacher_bound",
    "register_onnx_converters",
    "robust_accuracy_certificate",
    "robust_accuracy_score",
    "robust_generalization_bound",
    "robust_linear_path",
    "separator_path",
    "training_radii",
]

if TYPE_CHECKING:
    from sklearn_robust.callbacks import PathRecorder
    from sklearn_robust.datasets import make_teacher_classification
    from sklearn_robust.inspection import (
        ConvergenceDisplay,
        ImplicitBiasReport,
        RobustAccuracyDisplay,
        SeparatorDisplay,
        implicit_bias_report,
    )
    from sklearn_robust.linear_model import (
        ConstantClassifierWarning,
        MinNormRobustClassifier,
        NotSeparableWarning,
        RobustLinearClassifier,
        RobustLinearClassifierCV,
        RobustLinearPath,
        robust_linear_path,
        training_radii,
    )
    from sklearn_robust.metrics import (
        certified_radius,
        make_robust_scorer,
        robust_accuracy_certificate,
        robust_accuracy_score,
    )
    from sklearn_robust.neural_network import (
        RobustDiagonalNet,
        RobustMLPClassifier,
        RobustNetClassifier,
    )
    from sklearn_robust.onnx import register_onnx_converters
    from sklearn_robust.proofs import Certificate, CertificateError
    from sklearn_robust.reports import RobustnessReport
    from sklearn_robust.separators import (
        NotSeparableError,
        Separator,
        max_margin,
        min_norm_separator,
        separator_path,
    )
    from sklearn_robust.theory import (
        adversarial_rademacher_bound,
        margin_generalization_bound,
        mixed_norm_weight,
        rademacher_bound,
        robust_generalization_bound,
    )


def __getattr__(name: str) -> Any:
    """Import a public module, or the module of a public name, when it is first used (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
