"""Auto-PGD: its schedule, and what it finds beside plain steps."""

import math

import numpy as np
import pytest
import torch

from sklearn_robust.attacks import apgd, pgd
from sklearn_robust.attacks._losses import dlr, logit_margins
from sklearn_robust.attacks.auto_pgd import _checkpoints

RADII = {1: 2.0, 2: 0.5, math.inf: 0.08}


def margins(net, X, y):
    with torch.no_grad():
        return logit_margins(net(torch.as_tensor(X)), torch.as_tensor(y)).numpy()


def test_checkpoints_are_those_of_the_paper():
    assert sorted(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("q", RADII)
def test_apgd_finds_at_least_what_pgd_finds(q, digits):
    net, X, y = digits
    threat = {"eps": RADII[q], "q": q, "clip": (0, 1)}
    plain = (margins(net, pgd(net, X, y, **threat), y) > 0).sum()
    auto = (margins(net, apgd(net, X, y, **threat), y) > 0).sum()
    assert 10 < plain < 90
    assert auto <= plain
    plain = (margins(net, pgd(net, X, y, n_targets=9, **threat), y) > 0).sum()
    targeted = (margins(net, apgd(net, X, y, n_steps=50, loss="dlr", n_targets=9, **threat), y) > 0).sum()
    assert targeted <= plain


@pytest.mark.parametrize("q", RADII)
def test_one_run_of_apgd_goes_lower_than_pgd_on_average(q, digits):
    net, X, y = digits
    threat = {"eps": RADII[q], "q": q, "clip": (0, 1), "stop_when_broken": False}
    plain = margins(net, pgd(net, X, y, n_steps=100, **threat), y)
    assert margins(net, apgd(net, X, y, n_steps=100, **threat), y).mean() < plain.mean()


@pytest.mark.parametrize("q", RADII)
def test_apgd_goes_as_low_as_a_long_search(q, digits):
    net, X, y = digits
    threat = {"eps": RADII[q], "q": q, "clip": (0, 1), "stop_when_broken": False}
    long = margins(
        net, pgd(net, X[:30], y[:30], n_steps=300, step_size=RADII[q] / 20, n_restarts=2, random_state=0, **threat), y[:30]
    )
    auto = margins(net, apgd(net, X[:30], y[:30], n_steps=100, **threat), y[:30])
    assert np.median(auto - long) <= 0.01 * np.abs(long).mean()


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_dlr_is_the_margin_up_to_a_positive_factor_free_of_scale_and_shift(n_classes):
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(20, n_classes, generator=generator), torch.randint(n_classes, (20,), generator=generator)
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
