"""The room's public names, what using them costs, and an attack of one's own."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from sklearn_robust import attacks
from sklearn_robust.attacks import pgd
from sklearn_robust.attacks.losses import logit_margins
from sklearn_robust.attacks.search import SearchOptions, Settings, search


def test_public_names_resolve_and_unknown_ones_do_not():
    for name in attacks.__all__:
        assert getattr(attacks, name).__name__ == name
    assert set(attacks.__all__) <= set(dir(attacks))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = attacks.no_such_name


@pytest.mark.parametrize("attack", [attacks.apgd, attacks.pgd, attacks.square])
@pytest.mark.parametrize(
    ("name", "bad"),
    [("eps", torch.full((4,), 0.1)), ("eps", -1.0), ("batch_size", 0), ("batch_size", 1.5)],
)
def test_all_attacks_check_what_they_share(attack, name, bad):
    with pytest.raises(ValueError, match=f"{name} must be"):
        attack(
            torch.nn.Linear(2, 1),
            np.zeros((3, 2), np.float32),
            [0, 1, 1],
            **{"eps": 0.1, name: bad},
        )


def to_the_corner(batch, delta, best):
    """An attack of one's own: one jump to the farthest point of the linearised loss."""
    _, gradient, margins = batch.evaluate(batch.region.place(delta))
    best.update(batch.region.place(delta), margins)
    points = batch.region.place(batch.region.farthest(gradient))
    best.update(points, batch.margins(points))


@pytest.mark.parametrize("q", [1, 2, 3, math.inf])
def test_an_attack_of_ones_own_gets_targets_batches_and_the_type_of_the_data(q):
    torch.manual_seed(0)
    module = torch.nn.Linear(6, 4).double()
    X = np.random.default_rng(0).uniform(size=(20, 6)).astype("float32")
    y = module(torch.from_numpy(X).double()).argmax(1).numpy()
    settings = Settings(q=q, eps=0.2, clip=(0, 1), n_targets=3, stop_when_broken=False)
    worst = search(to_the_corner, module, X, y, settings)
    assert worst.dtype == X.dtype
    parts = search(to_the_corner, module, X, y, dataclasses.replace(settings, batch_size=7))
    np.testing.assert_array_equal(parts, worst)

    class Linear:  # whose worst case has a closed form
        coef_, intercept_ = module.weight.detach().numpy(), module.bias.detach().numpy()
        classes_ = np.arange(4)

        def decision_function(self, X):
            return X @ self.coef_.T + self.intercept_

    def margins(points):
        return logit_margins(
            torch.from_numpy(Linear().decision_function(points)), torch.from_numpy(y)
        )

    exact = search(to_the_corner, Linear(), X, y, settings)
    torch.testing.assert_close(margins(worst), margins(exact), rtol=1e-5, atol=1e-6)


def test_keywords_of_an_attack_are_those_of_its_settings():
    fields = set(SearchOptions.__annotations__)
    assert fields | {"q", "eps", "clip", "scale"} == {f.name for f in dataclasses.fields(Settings)}
    with pytest.raises(TypeError, match="restarts"):
        pgd(torch.nn.Linear(2, 2), np.zeros((1, 2)), [0], eps=0.1, restarts=2)
