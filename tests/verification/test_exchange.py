"""Networks in ONNX predict alike, and properties say where a sample may go."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

from sklearn_robust.verification import save_onnx, vnnlib_property


def test_networks_in_onnx_predict_alike(tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    images = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(18, 3),
    )
    images(torch.randn(20, 1, 8, 8))  # statistics
    # onnxruntime has no convolutions of float64
    for module, shape in ((images, (1, 8, 8)), (nn.Linear(4, 1).double(), (4,))):
        dtype = next(module.parameters()).dtype
        save_onnx(module, tmp_path / "net.onnx", shape)
        assert module.training  # as it was
        session = onnxruntime.InferenceSession(
            str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
        )
        for n in (1, 5):
            x = torch.randn(n, *shape, dtype=dtype)
            (found,) = session.run(None, {"X": x.numpy()})
            expected = module.eval()(x).detach().numpy()
            module.train()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def misclassified(text, f, points):
    """Whether one of the points meets the assertions of a property, for outputs f(x)."""
    asserted = [line for line in text.splitlines() if line.startswith("(assert")]

    def holds(line, names):
        words = line.replace("(", " ( ").replace(")", " ) ").split()

        def value(at):
            if words[at] != "(":
                word = words[at]
                return names[word] if word in names else float(word), at + 1
            name, at, parts = words[at + 1], at + 2, []
            while words[at] != ")":
                part, at = value(at)
                parts.append(part)
            functions = {"assert": lambda x: x, ">=": lambda a, b: a >= b}
            functions |= {"<=": lambda a, b: a <= b, "or": lambda *x: any(x)}
            functions["and"] = lambda *x: all(x)
            return functions[name](*parts), at + 1

        return value(0)[0]

    for x in points:
        names = {f"X_{j}": v for j, v in enumerate(x)}
        names |= {f"Y_{k}": v for k, v in enumerate(f(x))}
        if all(holds(line, names) for line in asserted):
            return True
    return False


@pytest.mark.parametrize(("n_outputs", "y"), [(1, 0), (1, 1), (3, 1)])
def test_a_property_holds_where_a_point_of_the_box_is_misclassified(n_outputs, y):
    rng = np.random.default_rng(0)
    W, b = rng.standard_normal((n_outputs, 2)), rng.standard_normal(n_outputs)
    x, scale = np.array([0.4, 0.6]), np.array([1.0, 0.5])
    scores, answers = W @ x + b, set()
    if n_outputs > 1:
        b[y] += scores.max() - scores[y] + 0.3  # right at first
    for eps in (0.01, 0.1, 0.3, 0.9):
        text = vnnlib_property(x, y, n_outputs, eps=eps, clip=(0, 1), scale=scale)
        low, high = np.maximum(x - eps * scale, 0), np.minimum(x + eps * scale, 1)
        corners = list(itertools.product(*zip(low, high, strict=True)))
        scores = np.array(corners) @ W.T + b
        if n_outputs == 1:
            wrong = scores[:, 0] <= 0 if y == 1 else scores[:, 0] >= 0
        else:
            wrong = np.delete(scores, y, axis=1).max(axis=1) >= scores[:, y]
        beyond = [np.array(corner) + (np.array(corner) - x) for corner in corners]
        assert misclassified(text, lambda v: W @ v + b, corners) == wrong.any()
        assert not misclassified(text, lambda v: W @ v + b, beyond)
        answers.add(bool(wrong.any()))
    assert len(answers) == 2 or n_outputs == 1


def test_bad_input_of_a_property_is_refused():
    with pytest.raises(ValueError, match="y must be the index of a class"):
        vnnlib_property([0.0], 2, 1, eps=0.1)
    with pytest.raises(ValueError, match="clip must hold every sample"):
        vnnlib_property([2.0], 1, 1, eps=0.1, clip=(0, 1))
    with pytest.raises(ValueError, match="eps must be"):
        vnnlib_property([2.0], 1, 1, eps=-0.1)
    with pytest.raises(ValueError, match="x must be finite"):
        vnnlib_property([np.nan], 1, 1, eps=0.1)
    with pytest.raises(ValueError, match="n_outputs must be an integer >= 1, got 0"):
        vnnlib_property([2.0], 1, 0, eps=0.1)
    with pytest.raises(ValueError, match="scale must hold a number for each of the 2 features"):
        vnnlib_property([2.0, 1.0], 1, 1, eps=0.1, scale=[1.0, 1.0, 1.0])


def test_small_numbers_of_a_property_have_no_exponent():
    text = vnnlib_property([[1e-7, 0.0]], 1, 1, eps=0.5, scale=[[0.0, 1.0]])
    assert "(assert (>= X_0 0.0000001))" in text
    assert "(assert (<= X_1 0.5))" in text


def test_limits_of_a_property_may_be_numbers_arrays_or_both():
    x, low = np.full((1, 2, 2), 0.5), np.array([[[0.45, 0.0], [0.48, 0.1]]])
    ends = [np.maximum(0.4, low), np.minimum(0.6, [[[0.55], [0.7]]]) + np.zeros_like(x)]
    text = vnnlib_property(x, 0, 2, eps=0.1, clip=(low, [[[0.55], [0.7]]]))
    for sign, side in zip((">=", "<="), ends, strict=True):
        for j, end in enumerate(side.ravel().tolist()):
            assert f"(assert ({sign} X_{j} {end}))" in text
    same = vnnlib_property(x, 0, 2, eps=0.1, clip=(low, np.ones_like(x)))
    assert vnnlib_property(x, 0, 2, eps=0.1, clip=(low, 1)) == same
