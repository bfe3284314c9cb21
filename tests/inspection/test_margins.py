"""The margins of a classifier in several norms."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sklearn_robust import MinNormRobustClassifier, implicit_bias_report, min_norm_separator
from sklearn_robust.inspection import margin_report

torch = pytest.importorskip("torch")
from torch import nn

NORMS = (1, 2, math.inf, "spectral", "nuclear")


def classes(n_classes=3, d=6, n=12):
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    return 2 * rng.standard_normal((n_classes, d))[y] + 0.3 * rng.standard_normal((n, d)), y


def linear(coef):
    layer = nn.Linear(coef.shape[1], len(coef), bias=False).double()
    layer.weight.data = torch.as_tensor(coef)
    return layer


def test_each_separator_has_the_largest_margin_in_its_norm():
    X, y = classes()
    largest, ratios = None, []
    for p in NORMS:
        W = min_norm_separator(X, y, p=p, q=2, eps=0.1, fit_intercept=False).coef
        report = margin_report(linear(7 * W), X, y, eps=0.1, largest=largest)
        largest = report.largest
        ratios.append(report.ratios)
    np.testing.assert_allclose(np.diag(ratios), 1, rtol=1e-6)
    assert np.max(np.array(ratios) - np.diag(np.full(5, 2.0))) < 0.9999
    assert str(report).startswith("margin over the largest: p=1 0.")


def test_classifiers_and_modules_of_the_same_coefficients_agree():
    X, y = classes(2)
    model = MinNormRobustClassifier(2, eps=0.2, fit_intercept=False).fit(X, 2 * y - 1)
    report = margin_report(model, X, 2 * y - 1, norms=(2, math.inf), q=1, eps=0.2)
    expected = [
        implicit_bias_report(model, X, 2 * y - 1, p=p, q=1, eps=0.2).margin_ratio
        for p in (2, math.inf)
    ]
    np.testing.assert_allclose(report.ratios, expected, rtol=1e-12)
    same = margin_report(nn.Sequential(linear(model.coef_)), X, y, norms=(2, np.inf), q=1, eps=0.2)
    np.testing.assert_allclose(same.ratios, expected, rtol=1e-12)
    several = LogisticRegression().fit(*classes())
    assert 0 < margin_report(several, *classes(), norms=["nuclear"]).ratios[0] < 1


@pytest.mark.parametrize("n_classes", [2, 3])
def test_normalised_margins_of_a_network_by_hand(n_classes):
    X, y = classes(n_classes)
    torch.manual_seed(0)
    n_outputs = 1 if n_classes == 2 else 3
    network = nn.Sequential(
        nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, n_outputs, bias=False)
    ).double()
    V, W = (p.detach().numpy().copy() for p in network.parameters())
    scores = np.maximum(X @ V.T, 0) @ W.T
    if n_outputs == 1:
        scores = np.hstack([-scores, scores]) / 2
    margin = (scores[range(12), y][:, None] - scores + 1e9 * np.eye(n_classes)[y]).min()
    theta = np.concatenate([V.ravel(), W.ravel()])
    values = [np.linalg.svd(A, compute_uv=False) for A in (V, W)]
    sizes = [np.linalg.norm(theta, p) for p in NORMS[:3]]
    sizes += [max(v[0] for v in values), sum(v.sum() for v in values)]
    for factor in (1, 3):  # homogeneous
        for parameter, value in zip(network.parameters(), (V, W), strict=True):
            parameter.data = torch.as_tensor(factor * value)
        report = margin_report(network, X, y)
        np.testing.assert_allclose(report.margins, margin / np.square(sizes), rtol=1e-12)
    assert report.degree == 2
    assert np.isnan(report.ratios).all()
    assert str(report).startswith("normalised margin: p=1 ")
    np.testing.assert_allclose(margin_report(network, X, y, largest=-report.margins).ratios, -1)


def test_what_has_no_margin_is_refused():
    X, y = classes()
    network = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False))
    with pytest.raises(ValueError, match=r"model must be homogeneous .* bias=False"):
        margin_report(nn.Linear(6, 3), X, y)
    with pytest.raises(ValueError, match="eps must be 0 for a network"):
        margin_report(network, X, y, eps=0.1)
    with pytest.raises(ValueError, match="one output for two classes"):
        margin_report(linear(np.ones((2, 6))), *classes(2))
    with pytest.raises(ValueError, match="finite parameters, got nan or inf"):
        margin_report(linear(np.full((3, 6), np.nan)), X, y)
    with pytest.raises(ValueError, match=r"largest must hold a margin for each of the 5 norms"):
        margin_report(network, X, y, largest=[1.0])
    with pytest.raises(ValueError, match=r"largest must hold positive margins.*got \[0\]"):
        margin_report(network, X, y, norms=[2], largest=[0])
    with pytest.raises(
        ValueError, match=r"norms must be a sequence of norms, such as \[2\], got 2"
    ):
        margin_report(network, X, y, norms=2)
    for labels in (y + 1, y.astype(float), y[:-1], np.array(list("abc"))[y]):
        with pytest.raises(ValueError, match=r"y must hold .* as an integer from 0 to 2"):
            margin_report(network, X, labels)
    with pytest.raises(ValueError, match=r"y has no sample of the classes \[2\]"):
        margin_report(linear(np.ones((3, 6))), X[:2], y[:2])
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    assert np.isnan(margin_report(network, X, y).margins).all()
