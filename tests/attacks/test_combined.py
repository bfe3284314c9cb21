"""The ensemble: never weaker than its parts, inside the threat, and what scores networks."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression

from sklearn_robust import RobustMLPClassifier, make_robust_scorer, robust_accuracy_score
from sklearn_robust.attacks import apgd, ensemble
from sklearn_robust.attacks.combined import judged
from sklearn_robust.neural_network.modules import make_mlp


def task(n_outputs, n=20):
    generator = torch.Generator().manual_seed(0)
    module = make_mlp(6, n_outputs, (30,), init_scale=4.0, generator=generator).double()
    X = torch.rand(n, 6, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        outputs = module(X)
    y = (outputs[:, 0] > 0).long() if n_outputs == 1 else outputs.argmax(1)
    return module, X.numpy(), y.numpy()


@pytest.mark.parametrize(("n_outputs", "q"), [(1, 2), (5, math.inf), (5, 1)])
def test_it_breaks_what_its_parts_break_inside_the_threat(n_outputs, q):
    module, X, y = task(n_outputs)
    eps = {1: 0.4, 2: 0.2, math.inf: 0.08}[q]
    threat = {"eps": eps, "q": q, "clip": (0, 1), "random_state": 0}
    worst = ensemble(module, X, y, n_targets=2, **threat)
    assert np.linalg.norm(worst - X, q, axis=1).max() <= eps * (1 + 1e-9)
    assert (worst.min(), worst.max()) >= (0, 0)
    assert worst.max() <= 1
    first = apgd(module, X, y, loss="cross_entropy", n_steps=20, **threat)
    broken, by_first = (judged(module, points, y)[0] <= 0 for points in (worst, first))
    assert np.all(broken >= by_first)
    assert broken.any()
    assert not broken.all()
    # without a stop each point is the worse of those of both parts
    least = judged(module, ensemble(module, X, y, stop_when_broken=False, **threat), y)[0]
    part = apgd(module, X, y, loss="cross_entropy", n_steps=20, stop_when_broken=False, **threat)
    assert np.all(least <= judged(module, part, y)[0])


def test_targets_find_what_a_search_without_one_misses():
    # f_1 leads f_2 at the sample and can never reach f_0 = 0; f_2 can
    hidden, outputs = torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
        hidden.bias.copy_(torch.tensor([0.1, 5.0]))
        outputs.weight.copy_(torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
        outputs.bias.copy_(torch.tensor([0.0, -0.1, -5.5]))
    module = torch.nn.Sequential(hidden, torch.nn.ReLU(), outputs)
    X, y, threat = np.zeros((1, 2), dtype=np.float32), np.array([0]), {"eps": 1.0, "q": 2}
    missed = apgd(module, X, y, random_state=0, **threat)
    found = ensemble(module, X, y, random_state=0, **threat)
    assert judged(module, missed, y)[0] > 0 >= judged(module, found, y)[0]


def test_types_and_linear_classifiers():
    module, X, y = task(5)
    tensors = ensemble(module, torch.from_numpy(X), torch.from_numpy(y), eps=0.1, random_state=0)
    assert isinstance(tensors, torch.Tensor)
    np.testing.assert_array_equal(tensors, ensemble(module, X, y, eps=0.1, random_state=0))
    limits = {"eps": 0.1, "random_state": 0, "clip": (6 * [0.0], 6 * [1.0])}
    np.testing.assert_array_equal(
        ensemble(module, X.tolist(), y.tolist(), **limits), ensemble(module, X, y, **limits)
    )
    linear = LogisticRegression().fit(X, y)
    np.testing.assert_array_equal(
        ensemble(linear, X, y, eps=0.1), apgd(linear, X, y, eps=0.1, loss="margin")
    )
    with pytest.raises(ValueError, match="n_targets must be an integer >= 1, got 0"):
        ensemble(module, X, y, eps=0.1, n_targets=0)
    with pytest.raises(ValueError, match="n_steps must be an integer >= 1, got 0"):
        ensemble(module, X, y, eps=0.1, n_steps=0)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_settings_of_the_attack_reach_what_scores(monkeypatch):
    X, y = make_blobs(60, n_features=3, centers=4, cluster_std=2.0, random_state=0)
    network = RobustMLPClassifier((10,), eps=0.3, max_iter=1, attack_steps=1, random_state=0)
    network.fit(X, y)
    seen = []

    def attacked(inputs, index, labels, sets, attack, options):
        seen.append((attack, {k: v for k, v in options.items() if k in ("n_targets", "loss")}))
        return inputs

    monkeypatch.setattr(network, "_attacked", attacked)
    params = {"attack": "apgd", "n_targets": 2, "loss": "dlr"}
    network.robust_score(X, y)
    network.robust_bounds(X, y, **params)
    robust_accuracy_score(network, X, y, eps=0.1, attack_params=params)
    scorer = make_robust_scorer(eps=0.1, attack_params=params)
    scorer(network, X, y)
    assert seen[0] == ("ensemble", {})
    assert seen[1:] == [("apgd", {"n_targets": 2, "loss": "dlr"})] * 3
    assert "attack_params={'attack': 'apgd'" in repr(scorer)
