"""Networks as names and numbers: pickles, copies, hashes and files of skops."""

import copy
import functools
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn.utils import prune

from sklearn_robust import RobustMLPClassifier, RobustNetClassifier, make_robust_scorer
from sklearn_robust.neural_network import madry_cnn
from sklearn_robust.neural_network._saving import copied, packed, unpacked

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Tied(nn.Module):
    """Two layers with the same weights, and a buffer that no state_dict holds."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.two.weight = self.one.weight
        self.last = nn.Linear(16, 1)
        self.register_buffer("shift", torch.ones(16), persistent=False)

    def forward(self, x):
        return self.last(torch.relu(self.two(torch.relu(self.one(x)) + self.shift)))


def sequence():
    return nn.Sequential(
        nn.Linear(16, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.1),
        nn.LeakyReLU(0.2),
        nn.Linear(8, 4),
        nn.GELU(),
        nn.Linear(4, 1),
    )


PLAIN = {
    "mlp": RobustMLPClassifier((5,), optimizer_params={"momentum": 0.9}),
    "tanh": RobustMLPClassifier((5, 4), activation="tanh", bias=False, optimizer=torch.optim.Adam),
    "default module": RobustNetClassifier(),
    "convolutional": RobustNetClassifier(
        functools.partial(madry_cnn, channels=(2, 3), width=4), input_shape=(1, 4, 4)
    ),
    "batch norm": RobustNetClassifier(sequence),
    "a module as parameter": RobustNetClassifier(sequence()),
}
FOREIGN = {
    "tied": RobustNetClassifier(Tied),
    "nested": RobustNetClassifier(nn.Sequential(sequence())),
}
ALL = {**PLAIN, **FOREIGN}


def fitted(name, n_classes=2):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((16, 16)), rng.integers(n_classes, size=16)
    estimator = copy.deepcopy(ALL[name]).set_params(
        max_iter=2, batch_size=8, eps=0.01, random_state=0, warm_start=True
    )
    return estimator.fit(X, y), X, y


def train_alike(one, other, X, y):
    np.testing.assert_array_equal(one.decision_function(X), other.decision_function(X))
    np.testing.assert_array_equal(
        one.fit(X, y).decision_function(X), other.fit(X, y).decision_function(X)
    )
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_pickles_and_copies_predict_and_train_on_alike(name):
    network, X, y = fitted(name)
    saved = pickle.dumps(network)
    for other in (pickle.loads(saved), copy.deepcopy(network)):
        assert other.history_ == network.history_
        assert [part.training for part in other.module_.modules()] == [
            part.training for part in network.module_.modules()
        ]
        assert train_alike(pickle.loads(saved), other, X, y)
        # no memory is shared
        assert not np.array_equal(other.decision_function(X), network.decision_function(X))
    if name == "tied":
        assert other.module_.one.weight is other.module_.two.weight


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_skops_saves_networks_of_common_layers(name):
    io = pytest.importorskip("skops.io")
    network, X, y = fitted(name, n_classes=2)
    saved = io.dumps(network)
    names = io.get_untrusted_types(data=saved)
    assert not any(
        name.startswith("torch.") and not name.startswith("torch.optim") for name in names
    )
    loaded = io.loads(saved, trusted=names)
    assert loaded.robust_score(X, y, n_steps=5) == network.robust_score(X, y, n_steps=5)
    np.testing.assert_array_equal(loaded.predict_proba(X), network.predict_proba(X))
    assert train_alike(loaded, pickle.loads(pickle.dumps(network)), X, y)


@pytest.mark.slow
def test_skops_saves_searches_over_networks():
    io = pytest.importorskip("skops.io")
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((24, 4)), rng.integers(2, size=24)
    network = RobustMLPClassifier((4,), max_iter=2, random_state=0)
    search = GridSearchCV(
        network, {"eps": [0.05, 0.1]}, scoring=make_robust_scorer(eps=0.1), cv=2
    ).fit(X, y)
    saved = io.dumps(search)
    loaded = io.loads(saved, trusted=io.get_untrusted_types(data=saved))
    np.testing.assert_array_equal(loaded.predict_proba(X), search.predict_proba(X))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "batch norm", "a module as parameter"])
def test_equal_networks_hash_alike(name):
    (one, X, y), (other, *_) = fitted(name), fitted(name)
    assert (
        joblib.hash(one)
        == joblib.hash(other)
        == joblib.hash(copy.deepcopy(one))
        == joblib.hash(pickle.loads(pickle.dumps(one)))
    )
    before = joblib.hash(one)
    assert joblib.hash(one.partial_fit(X, y)) != before
    assert joblib.hash(fitted(name)[0].set_params(eps=0.02)) != before


@pytest.mark.parametrize("single", [True, False])
def test_modules_are_packed_and_unpacked(single):
    module = sequence().train()
    module[0].bias.requires_grad_(False)
    module = module.float() if single else module.double()
    state = packed(module)
    assert [name for name, _ in state["structure"]][:2] == ["Linear", "BatchNorm1d"]
    again = unpacked(state)
    assert again.training
    assert [(n, p.requires_grad, p.dtype) for n, p in again.named_parameters()] == [
        (n, p.requires_grad, p.dtype) for n, p in module.named_parameters()
    ]
    torch.testing.assert_close(again.state_dict(), module.state_dict(), rtol=0, atol=0)
    x = torch.randn(5, 16).to(again[0].weight)
    assert torch.equal(again.eval()(x), module.eval()(x))


def test_modules_in_bfloat16_are_parameters_like_others():
    estimator = RobustNetClassifier(sequence().bfloat16(), max_iter=1, random_state=0)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((24, 16)), rng.integers(2, size=24)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(
        again.fit(X, y).decision_function(X), estimator.fit(X, y).decision_function(X)
    )


def hooked():
    module = sequence()
    module[0].register_forward_hook(print)
    return module


def with_mode():
    module = sequence()
    module[1].eval()
    return module


def with_twice_the_same():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.ReLU(), layer)


def with_attribute():
    module = sequence()
    module.author = "someone"
    return module


@pytest.mark.parametrize("make", [hooked, with_mode, with_twice_the_same, with_attribute, Tied])
def test_modules_with_more_than_their_layers_are_kept_whole(make):
    module = make()
    state = packed(module)
    assert type(state["structure"]) is type(module)
    assert all(parameter.is_meta for parameter in state["structure"].parameters())
    again = unpacked(state)
    assert [part.training for part in again.modules()] == [
        part.training for part in module.modules()
    ]
    torch.testing.assert_close(again.state_dict(), module.state_dict(), rtol=0, atol=0)
    assert len(list(again.parameters())) == len(list(module.parameters()))
    assert [len(part._forward_hooks) for part in again.modules()] == [
        len(part._forward_hooks) for part in module.modules()
    ]
    assert getattr(again, "author", None) == getattr(module, "author", None)


def test_a_module_that_was_pruned_is_copied_with_its_last_result():
    module = nn.Sequential(nn.Linear(3, 2))
    prune.l1_unstructured(module[0], "weight", amount=0.5)
    module(torch.ones(1, 3))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(module)
    for again in (copied(module), unpacked(pickle.loads(pickle.dumps(packed(module))))):
        x = torch.randn(4, 3)
        assert torch.equal(again(x), module(x))
        assert again[0].weight_orig is not module[0].weight_orig
