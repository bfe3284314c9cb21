"""Networks and properties in the formats that other verifiers read, ONNX and VNN-LIB."""

from __future__ import annotations

import math
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sklearn_robust._array_api import to_numpy
from sklearn_robust._extras import missing
from sklearn_robust._parameters import check_number
from sklearn_robust.attacks.target import evaluating
from sklearn_robust.regions import Region

_OPSET = 17


def save_onnx(module: nn.Module, path: str | PathLike[str], input_shape: tuple[int, ...]) -> None:
    """Write a network as ONNX: the input "X" of n samples, the output "Y" of their scores.

    Parameters
    ----------
    module : torch.nn.Module
        As that of a fitted classifier, `classifier.module_`. It is exported as it predicts: without
        dropout, with the statistics of batch normalisation that training left.
    path : str or path-like
    input_shape : tuple of int
        The shape of one sample, as `classifier.input_shape_`.

    Raises
    ------
    ImportError
        If onnx is not installed.

    Notes
    -----
    Numbers keep the type of the parameters. onnxruntime has no convolutions of float64; where those
    were trained, `copy.deepcopy(module).float()` is the network to write.

    Examples
    --------
    >>> import pytest, tempfile
    >>> onnxruntime = pytest.importorskip("onnxruntime")
    >>> import numpy as np
    >>> from sklearn_robust import RobustMLPClassifier
    >>> from sklearn_robust.verification import save_onnx
    >>> X, y = np.array([[2.0, 0.0], [-2.0, 1.0], [3.0, 1.0], [-3.0, 0.0]]), [1, 0, 1, 0]
    >>> net = RobustMLPClassifier((4,), eps=0.1, max_iter=50, random_state=0).fit(X, y)
    >>> path = tempfile.mkdtemp() + "/net.onnx"
    >>> save_onnx(net.module_, path, net.input_shape_)
    >>> session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    >>> (scores,) = session.run(None, {"X": X})
    >>> bool(np.allclose(scores[:, 0], net.decision_function(X)))
    True
    """
    try:
        import onnx  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise missing("save_onnx", "interop") from error
    parameter = next(module.parameters())
    example = torch.zeros((1, *input_shape), dtype=parameter.dtype, device=parameter.device)
    with evaluating(module), torch.no_grad(), warnings.catch_warnings():
        # the other exporter needs onnxscript, which is seldom there
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module,
            (example,),
            Path(path),
            input_names=["X"],
            output_names=["Y"],
            dynamic_axes={"X": {0: "n"}, "Y": {0: "n"}},
            opset_version=_OPSET,
            dynamo=False,
        )


def vnnlib_property(
    x: Any,
    y: int,
    n_outputs: int,
    *,
    eps: float,
    clip: tuple[Any, Any] | None = None,
    scale: Any = None,
) -> str:
    r"""The question whether a sample can be misclassified, as a VNN-LIB property.

    .. math:: \exists\, x',\ |x'_j - x_j| \le \epsilon s_j,\ \text{low} \le x' \le \text{high}:
       \quad Y_k(x') \ge Y_y(x') \text{ for some } k \ne y.

    A verifier that answers "unsat" proves the sample robust; "sat" comes with an adversarial x'.

    Parameters
    ----------
    x : array-like of d numbers, of any shape
        The sample, whose entries are numbered in C order.
    y : int
        The index of its class.
    n_outputs : int
        The number of outputs of the network; one alone is positive for class 1.
    eps : float
        Radius of the perturbation, in the norm of q = inf.
    clip : pair (low, high) of numbers or arrays that broadcast to x, optional
        Limits of the data.
    scale : array-like of shape (d,) or of that of x, optional

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If y is no class, x is beyond the limits, or a parameter out of its range.

    Examples
    --------
    >>> from sklearn_robust.verification import vnnlib_property
    >>> print(vnnlib_property([0.5], 1, 2, eps=0.25, clip=(0, 1)))
    ; is the class 1 changed by a perturbation of at most 0.25 of an entry?
    (declare-const X_0 Real)
    (declare-const Y_0 Real)
    (declare-const Y_1 Real)
    (assert (>= X_0 0.25))
    (assert (<= X_0 0.75))
    (assert (or (and (>= Y_0 Y_1))))
    <BLANKLINE>
    """
    given = np.array(to_numpy(x) if hasattr(x, "device") else x, dtype=np.float64)
    if not np.isfinite(given).all():
        raise ValueError("x must be finite; it contains nan or inf. Impute missing values first.")
    check_number(n_outputs, "n_outputs", low=1, integer=True)
    region = Region(torch.from_numpy(given)[None], math.inf, eps, clip, scale)
    low, high = (end.numpy().ravel() for end in region.ends)
    classes = range(max(n_outputs, 2))
    if y not in classes:
        raise ValueError(f"y must be the index of a class, one of {list(classes)}, got {y!r}.")
    if n_outputs == 1:
        wrong = ["(<= Y_0 0.0)" if y == 1 else "(>= Y_0 0.0)"]
    else:
        wrong = [f"(>= Y_{k} Y_{y})" for k in classes if k != y]
    lines = [
        f"; is the class {y} changed by a perturbation of at most {region.eps!r} of an entry?",
        *(f"(declare-const X_{j} Real)" for j in range(given.size)),
        *(f"(declare-const Y_{k} Real)" for k in range(n_outputs)),
    ]
    for j, ends in enumerate(zip(low, high, strict=True)):
        # SMT-LIB knows no exponents
        lower, upper = (np.format_float_positional(end, trim="0") for end in ends)
        lines += [f"(assert (>= X_{j} {lower}))", f"(assert (<= X_{j} {upper}))"]
    lines.append("(assert (or " + " ".join(f"(and {one})" for one in wrong) + "))")
    return "\n".join(lines) + "\n"
