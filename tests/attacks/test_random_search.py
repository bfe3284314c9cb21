"""The Square Attack needs scores only."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from sklearn_robust.attacks import pgd, square
from sklearn_robust.attacks.linear import robust_margins
from sklearn_robust.attacks.losses import logit_margins
from sklearn_robust.threats import LpBall

RADII = {1: 3.0, 2: 0.8, math.inf: 0.12}


class Quantised(torch.nn.Module):
    """A network behind inputs rounded to tenths: its gradient vanishes everywhere."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net((10 * x).round() / 10)


def broken(net, X, y):
    with torch.no_grad():
        return (logit_margins(net(torch.as_tensor(X)), torch.as_tensor(y)) <= 0).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("q", "image"), [(1, False), (2, True), (math.inf, True)])
def test_it_sees_through_masked_gradients(q, image, digits):
    net, X, y = digits
    masked = Quantised(net)
    if image:
        masked, X = torch.nn.Sequential(torch.nn.Flatten(), masked), X.reshape(-1, 1, 8, 8)
    clean = broken(masked, X, y)
    threat = {"eps": RADII[q], "q": q, "clip": (0, 1)}
    np.testing.assert_array_equal(broken(masked, pgd(masked, X, y, **threat), y), clean)
    assert (
        broken(masked, square(masked, X, y, n_queries=300, random_state=0, **threat), y).mean()
        > clean.mean() + 0.3
    )


@pytest.mark.slow
@pytest.mark.parametrize("q", [1, 2, math.inf])
def test_it_comes_near_the_closed_form_on_linear_scores(q):
    rng = np.random.default_rng(0)
    coef, X, y = rng.normal(size=(1, 6)), rng.normal(size=(8, 6)), rng.integers(2, size=8)
    exact = robust_margins(X, y, coef, np.zeros(1), LpBall(q, 0.5))
    found = square(
        lambda x: x @ coef[0],
        X,
        y,
        eps=0.5,
        q=q,
        n_queries=400,
        stop_when_broken=False,
        random_state=0,
    )
    clean, reached = (np.where(y > 0, 1, -1) * (x @ coef[0]) for x in (X, found))
    assert np.all(reached >= exact - 1e-12)
    assert np.all(clean - reached >= 0.8 * (clean - exact))


@pytest.mark.slow
def test_it_attacks_any_classifier():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = np.where((X**2).sum(1) > 1.2, "out", "in")
    machine = SVC().fit(X, y)
    found = square(machine, X, y, eps=0.5, n_queries=100, random_state=0)
    assert machine.score(found, y) < machine.score(X, y) - 0.3
    neighbours = KNeighborsClassifier().fit(X, y == "out")
    found = square(
        neighbours.predict_proba,
        X,
        (y == "out").astype(int),
        eps=0.5,
        n_queries=100,
        random_state=0,
    )
    assert neighbours.score(found, y == "out") < neighbours.score(X, y == "out") - 0.3


def test_queries_are_counted_and_end_when_all_is_broken():
    calls = []

    def scores(x):
        calls.append(len(x))
        return x[:, 0]

    X = np.array([[1.0, 0.0], [0.1, 0.0], [-1.0, 0.0]])
    square(scores, X, [1, 1, 1], eps=0.5, n_queries=20, random_state=0)
    assert len(calls) == 21  # one for the samples themselves
    assert calls[0] == 3
    assert calls[-1] == 1  # the wrong one and the one that breaks are left alone
    calls.clear()
    square(scores, X[1:], [1, 1], eps=0.5, n_queries=1000, random_state=0)
    assert len(calls) < 30


def test_messages():
    X, y = np.zeros((2, 3)), [0, 1]
    with pytest.raises(ValueError, match="q must be 1, 2 or"):
        square(lambda x: x, X, y, eps=0.1, q=3)
    with pytest.raises(ValueError, match="window must be a share"):
        square(lambda x: x, X, y, eps=0.1, window=0.0)
    with pytest.raises(ValueError, match="n_queries must be an integer >= 1"):
        square(lambda x: x, X, y, eps=0.1, n_queries=0)
