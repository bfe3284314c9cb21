"""Auto-PGD: its schedule, and what it finds beside plain steps."""

import itertools
import math

import numpy as np
import pytest
import torch

from sklearn_robust.attacks import apgd, pgd
from sklearn_robust.attacks.auto_pgd import _checkpoints, _climb
from sklearn_robust.attacks.losses import dlr, logit_margins
from sklearn_robust.attacks.search import Best
from sklearn_robust.regions import Region

RADII = {1: 2.0, 2: 0.5, math.inf: 0.08}


def margins(net, X, y):
    with torch.no_grad():
        return logit_margins(net(torch.as_tensor(X)), torch.as_tensor(y)).numpy()


def test_checkpoints_are_those_of_the_paper():
    assert sorted(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


class Waves:
    """A batch of one sample at 0 whose loss is a sum of waves: it has many local maxima. Keeps the
    points that it is asked."""

    def __init__(self, q, seed):
        rng = np.random.default_rng(seed)
        self.frequency, self.height = rng.uniform(1, 6, 4), rng.standard_normal(4)
        self.region, self.asked = Region(torch.zeros(1, 4, dtype=torch.float64), q, 1.0), []

    def loss(self, x):
        return float(
            self.height @ np.sin(self.frequency * x + 1)
        ), self.height * self.frequency * np.cos(self.frequency * x + 1)

    def evaluate(self, points):
        self.asked.append(points[0].numpy().copy())
        value, gradient = self.loss(self.asked[-1])
        value = torch.tensor([value], dtype=torch.float64)
        return value, torch.from_numpy(gradient)[None], -value


def algorithm_1(batch, q, n_steps, checkpoints):
    """Croce and Hein (2020), Algorithm 1, with its constants written out, for one sample; the
    points in turn and the steps."""
    alpha, rho, eta = 0.75, 0.75, 2.0

    def project(x):
        return np.clip(x, -1, 1) if q == math.inf else x / max(1, np.linalg.norm(x))

    def moved(x, gradient):
        return project(
            x + eta * (np.sign(gradient) if q == math.inf else gradient / np.linalg.norm(gradient))
        )

    x = previous = best = np.zeros(4)
    value, gradient = batch.loss(x)
    best_value = best_before = value
    points, etas, rises, since, just_halved = [x], [], 0, 0, True
    for k in range(1, n_steps + 1):
        z = moved(x, gradient)
        step = z - x if k == 1 else alpha * (z - x) + (1 - alpha) * (x - previous)
        previous, x, before = x, project(x + step), value
        value, gradient = batch.loss(x)
        points.append(x)
        etas.append(eta)
        rises += value > before
        if value > best_value:
            best, best_value = x, value
        if k in checkpoints:
            few = rises < rho * (k - since)
            stalled = not just_halved and best_value <= best_before
            just_halved = few or stalled
            if just_halved:
                eta /= 2
                x = previous = best
                value, gradient = batch.loss(x)
            rises, since, best_before = 0, k, best_value
    return np.array(points), etas


@pytest.mark.parametrize(
    ("q", "seed"), [(2, 2), (2, 27), (2, 30), (math.inf, 0), (math.inf, 1), (math.inf, 2)]
)
def test_points_and_steps_are_those_of_the_algorithm(q, seed):
    batch, start = Waves(q, seed), torch.zeros(1, 4, dtype=torch.float64)
    best = Best(start.clone(), torch.full((1,), math.inf, dtype=torch.float64), False)
    _climb(batch, start, best, 60)
    points, etas = algorithm_1(Waves(q, seed), q, 60, {14, 25, 35, 42, 48, 53, 56, 60})
    np.testing.assert_allclose(np.array(batch.asked), points, atol=1e-9)
    assert etas[0] == 2  # the first step is twice the radius
    assert 3 <= len(set(etas)) <= 8
    assert all(later in (earlier, earlier / 2) for earlier, later in itertools.pairwise(etas))
    losses = np.array([batch.loss(x)[0] for x in points])
    changes = np.abs(np.diff(losses))
    assert np.min(changes[changes > 0]) > 1e-6  # so that rounding decides no step
    assert -float(best.margins) == pytest.approx(losses.max())


@pytest.mark.slow
@pytest.mark.parametrize("q", RADII)
def test_apgd_finds_at_least_what_pgd_finds(q, digits):
    net, X, y = digits
    threat = {"eps": RADII[q], "q": q, "clip": (0, 1)}
    plain = (margins(net, pgd(net, X, y, **threat), y) > 0).sum()
    auto = (margins(net, apgd(net, X, y, **threat), y) > 0).sum()
    assert 10 < plain < 90
    assert auto <= plain
    plain = (margins(net, pgd(net, X, y, n_targets=2, **threat), y) > 0).sum()
    targeted = (
        margins(net, apgd(net, X, y, n_steps=50, loss="dlr", n_targets=2, **threat), y) > 0
    ).sum()
    assert targeted <= plain


@pytest.mark.slow
@pytest.mark.parametrize("q", RADII)
def test_one_run_of_apgd_goes_lower_than_pgd_on_average(q, digits):
    net, X, y = digits
    threat = {"eps": RADII[q], "q": q, "clip": (0, 1), "stop_when_broken": False}
    plain = margins(net, pgd(net, X, y, n_steps=100, **threat), y)
    assert margins(net, apgd(net, X, y, n_steps=50, **threat), y).mean() < plain.mean()


@pytest.mark.slow
@pytest.mark.parametrize("q", RADII)
def test_apgd_goes_as_low_as_a_long_search(q, digits):
    net, X, y = digits
    threat = {"eps": RADII[q], "q": q, "clip": (0, 1), "stop_when_broken": False}
    long = margins(
        net,
        pgd(
            net,
            X[:30],
            y[:30],
            n_steps=150,
            step_size=RADII[q] / 12,
            n_restarts=2,
            random_state=0,
            **threat,
        ),
        y[:30],
    )
    auto = margins(net, apgd(net, X[:30], y[:30], n_steps=100, **threat), y[:30])
    assert np.median(auto - long) <= 0.01 * np.abs(long).mean()


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_dlr_is_the_margin_up_to_a_positive_factor_free_of_scale_and_shift(n_classes):
    generator = torch.Generator().manual_seed(0)
    logits, y = (
        torch.randn(20, n_classes, generator=generator),
        torch.randint(n_classes, (20,), generator=generator),
    )
    assert torch.equal(dlr(logits, y) > 0, logit_margins(logits, y) < 0)
    if n_classes > 2:
        torch.testing.assert_close(dlr(5 * logits + 3, y), dlr(logits, y))
        rival = (y + 1) % n_classes
        torch.testing.assert_close(dlr(5 * logits + 3, y, rival), dlr(logits, y, rival))


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_dlr_attacks_two_classes(n_outputs):
    net = torch.nn.Linear(2, n_outputs, bias=False)
    net.weight.data = torch.tensor([[0.0, 0.0], [1.0, -1.0]])[-n_outputs:]
    X = np.array([[0.3, 0.0], [0.0, 0.3]])
    for n_targets in (None, 9):
        found = apgd(net, X, [1, 0], eps=0.2, loss="dlr", n_targets=n_targets)
        np.testing.assert_allclose(found, [[0.1, 0.2], [0.2, 0.1]], atol=1e-6)
