"""Linear classifiers of this library in ONNX, through skl2onnx."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_robust._documentation import see
from sklearn_robust._extras import missing
from sklearn_robust.linear_model import (
    MinNormRobustClassifier,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
)
from sklearn_robust.linear_model.base import dense
from sklearn_robust.losses import log_odds_slope, softmax_slope
from sklearn_robust.neural_network import RobustDiagonalNet

__all__ = ["register_onnx_converters"]


def register_onnx_converters() -> None:
    """Teach skl2onnx to convert the linear classifiers of this library, alone and in pipelines.

    Needs `pip install "sklearn-robust[interop]"`. Call it once, then use `skl2onnx.to_onnx` as for
    any classifier of scikit-learn. A converted model returns labels and the probabilities of the
    classes; with the option raw_scores=True, and for an estimator without probabilities, such as
    MinNormRobustClassifier, scores in their place: for two classes (-f, f), f the decision
    function, for several the decision function. Probabilities of a loss of one's own convert for
    two classes, where it has a `log_odds_slope`.

    Raises
    ------
    ImportError
        If skl2onnx is not installed.

    Notes
    -----
    The model computes in the precision of its input: float64 where the X given to `to_onnx` is
    float64, otherwise float32. With float64 use the option zipmap=False, as for any classifier:
    ONNX's ZipMap, which makes a dict of the probabilities of each sample, takes float32 alone, and
    onnxruntime loads no other.

    Examples
    --------
    >>> import pytest
    >>> skl2onnx, onnxruntime = pytest.importorskip("skl2onnx"), pytest.importorskip("onnxruntime")
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_robust import RobustLinearClassifier, register_onnx_converters
    >>> register_onnx_converters()
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), RobustLinearClassifier(eps=0.2)).fit(X, y)
    >>> onnx = skl2onnx.to_onnx(model, X[:1], options={"zipmap": False})
    >>> session = onnxruntime.InferenceSession(
    ...     onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    >>> label, probability = session.run(None, {"X": X})
    >>> bool((label == model.predict(X)).all())
    True
    """
    try:
        from skl2onnx import update_registered_converter
        from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
    except ImportError as error:
        raise missing("register_onnx_converters", "interop") from error
    options = {"zipmap": [True, False, "columns"], "raw_scores": [True, False], "nocl": [False]}
    for estimator in (
        MinNormRobustClassifier,
        RobustDiagonalNet,
        RobustLinearClassifier,
        RobustLinearClassifierCV,
    ):
        alias = f"SklearnRobust{estimator.__name__}"
        update_registered_converter(
            estimator, alias, calculate_linear_classifier_output_shapes, _convert, options=options
        )


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """The graph of labels and of probabilities or scores."""
    from skl2onnx.algebra import onnx_ops as ops
    from skl2onnx.common.data_types import DoubleTensorType, guess_proto_type
    from skl2onnx.proto import onnx_proto

    estimator = operator.raw_operator
    X = operator.inputs[0]
    opset = container.target_opset
    check_is_fitted(estimator)
    double = isinstance(X.type, DoubleTensorType)
    dtype, kind = (
        (np.float64, guess_proto_type(X.type))
        if double
        else (np.float32, onnx_proto.TensorProto.FLOAT)
    )
    coef: np.ndarray = dense(estimator.coef_).astype(dtype)
    intercept: np.ndarray = estimator.intercept_.astype(dtype)
    if len(coef) == 1:
        coef = np.concatenate([-coef, coef])
        intercept = np.concatenate([-intercept, intercept])
    rows = ops.OnnxCast(X, to=kind, op_version=opset)
    scores = ops.OnnxAdd(
        ops.OnnxMatMul(rows, coef.T, op_version=opset), intercept, op_version=opset
    )

    classes = estimator.classes_
    classes = classes.astype(np.int64) if classes.dtype.kind in "biuf" else classes.astype(str)
    best = ops.OnnxArgMax(scores, axis=1, keepdims=0, op_version=opset)
    label = ops.OnnxArrayFeatureExtractor(classes, best, op_version=1)
    label = ops.OnnxReshape(
        label, np.array([-1]), op_version=opset, output_names=operator.outputs[:1]
    )

    raw = container.get_options(estimator, {"raw_scores": False})["raw_scores"]
    if raw or not hasattr(estimator, "predict_proba"):
        values = ops.OnnxIdentity(scores, op_version=opset, output_names=operator.outputs[1:])
    else:
        # softmax(-f t/2, f t/2) is sigmoid(t f)
        factor = _slope(estimator) * (0.5 if len(classes) == 2 else 1.0)
        logits = ops.OnnxMul(scores, np.array([factor], dtype=dtype), op_version=opset)
        values = ops.OnnxSoftmax(
            logits, axis=1, op_version=opset, output_names=operator.outputs[1:]
        )
    label.add_to(scope, container)
    values.add_to(scope, container)


def _slope(estimator: Any) -> float:
    """The t of the class probabilities sigmoid(t f) or, for several classes, softmax(t f)."""
    loss, several = estimator._loss, len(estimator.classes_) > 2
    slope = softmax_slope(loss) if several else log_odds_slope(loss)
    if slope is None:
        reason = (
            "for several classes they are no softmax" if several else "it has no log_odds_slope"
        )
        raise TypeError(
            f"The probabilities of loss {loss.name!r} have no form in ONNX: {reason}. Convert with "
            "the option raw_scores=True."
            f" {see('guide/interoperation')}"
        )
    return slope
