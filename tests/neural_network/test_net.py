"""RobustNetClassifier: modules of every kind, data of every kind, and the contract of an
estimator."""

import copy
import functools
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from torch import nn

from sklearn_robust import RobustMLPClassifier, RobustNetClassifier, robust_accuracy_score
from sklearn_robust.attacks import pgd
from sklearn_robust.neural_network import madry_cnn

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
NAMES = np.array(["ash", "beech", "cedar"])


def blobs(centers=3, n=60, dtype=np.float64):
    X, y = make_blobs(n, n_features=4, centers=centers, random_state=1)
    return ((X - X.mean(0)) / X.std(0)).astype(dtype), NAMES[y]


def quick(**options):
    return RobustNetClassifier(**{"attack_steps": 3, "max_iter": 15, "random_state": 0, **options})


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        nn.init.eye_(self.layer.weight)  # not random: it depends on no test before
        nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        return self.layer(x)


class Noisy(nn.Sequential):
    def __init__(self, input_shape, n_outputs):
        super().__init__(
            nn.Linear(*input_shape, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.3),
            nn.ReLU(),
            nn.Linear(8, n_outputs),
        )


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.module_.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("module", [None, Plain(), Noisy, functools.partial(Noisy, n_outputs=3)])
def test_modules_of_every_kind(module):
    X, y = blobs()
    state = torch.get_rng_state()
    first, second = (
        quick(module=module, attack_random_start=True, batch_size=16, max_iter=12).fit(X, y)
        for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights(first), weights(second))
    assert first.score(X, y) > 0.8
    assert not first.module_.training
    assert isinstance(clone(first), RobustNetClassifier)


def test_an_instance_is_copied_and_trained_on():
    X, y = blobs()
    module = Plain()
    before = module.layer.weight.detach().clone()
    network = quick(module=module, learning_rate=1e-9, max_iter=1).fit(X, y)
    assert torch.equal(module.layer.weight, before)
    torch.testing.assert_close(network.module_.layer.weight.detach(), before.double())
    assert network.fit(X, y).n_iter_ == 1


@pytest.fixture(scope="module")
def images():
    X, y = load_digits(n_class=3, return_X_y=True)
    return (X[:90] / 16).astype(np.float32).reshape(-1, 1, 8, 8), NAMES[y[:90]]


SMALL_CNN = functools.partial(madry_cnn, channels=(4, 4), width=16)


@pytest.mark.slow
def test_images(images):
    X, y = images
    network = quick(
        module=SMALL_CNN, p_algo=math.inf, clip=(0, 1), batch_size=15, eps=0.05, max_iter=25
    ).fit(X, y)
    assert network.score(X, y) > 0.9
    certified, attacked = network.robust_bounds(X, y, n_steps=8)
    assert certified <= attacked <= network.score(X, y)
    points = network.perturb(X, y, n_steps=5)
    assert points.shape == X.shape
    assert np.abs(points - X).max() <= 0.05 + 1e-6
    assert points.min() >= 0
    network = clone(network).set_params(max_iter=3).fit(X, y)
    flat = clone(network).set_params(input_shape=(1, 8, 8)).fit(X.reshape(len(X), -1), y)
    np.testing.assert_array_equal(
        flat.decision_function(X.reshape(len(X), -1)), network.decision_function(X)
    )
    assert (flat.n_features_in_, flat.input_shape_) == (64, (1, 8, 8))
    tensors = clone(network).fit(torch.from_numpy(X), y)
    np.testing.assert_array_equal(
        tensors.predict_proba(torch.from_numpy(X)), network.predict_proba(X)
    )
    mlp = RobustMLPClassifier((8,), max_iter=2).fit(X, y)
    assert mlp.input_shape_ == (64,)


def test_units_of_a_convolution_live_before_a_wide_layer():
    X, y = load_digits(return_X_y=True)
    X = (X[:96] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    module = functools.partial(madry_cnn, channels=(4, 8))
    network = quick(module=module, clip=(0, 1), max_iter=6).fit(X, y[:96])
    assert np.ptp(network.decision_function(X), axis=0).max() > 0.1  # 0 where all units are dead


def test_data_formats():
    X, y = blobs()
    reference = quick().fit(X, y)
    frame = pd.DataFrame(X, columns=list("abcd"))
    framed = quick().fit(frame, pd.Series(y))
    assert framed.feature_names_in_.tolist() == list("abcd")
    np.testing.assert_array_equal(framed.decision_function(frame), reference.decision_function(X))
    index = torch.from_numpy(np.searchsorted(NAMES, y))
    tensors = quick().fit(torch.from_numpy(X), index)
    np.testing.assert_array_equal(NAMES[tensors.predict(torch.from_numpy(X))], reference.predict(X))
    assert reference.decision_function(X).dtype == np.float64
    assert quick().fit(X.astype(np.float32), y).decision_function(X).dtype == np.float32
    assert quick().fit(torch.from_numpy(X).half(), y).module_[0].weight.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("centers", [2, 3])
def test_zero_weight_is_no_sample_and_two_is_twice(centers):
    X, y = blobs(centers)
    weight = np.tile([0.0, 1.0, 2.0], 20)
    weighted = quick(early_stopping=True, batch_size=7).fit(X, y, sample_weight=weight)
    left = quick(early_stopping=True, batch_size=7).fit(
        X[weight > 0], y[weight > 0], sample_weight=weight[weight > 0]
    )
    np.testing.assert_array_equal(weighted.decision_function(X), left.decision_function(X))
    repeated = quick(batch_size=None).fit(
        np.repeat(X, weight.astype(int), axis=0), np.repeat(y, weight.astype(int))
    )
    np.testing.assert_allclose(
        quick(batch_size=None).fit(X, y, sample_weight=weight).decision_function(X),
        repeated.decision_function(X),
    )
    balanced = quick(class_weight="balanced").fit(X[:45], y[:45], sample_weight=weight[:45])
    used = weight[:45] > 0
    again = quick(class_weight="balanced").fit(
        X[:45][used], y[:45][used], sample_weight=weight[:45][used]
    )
    np.testing.assert_array_equal(balanced.decision_function(X), again.decision_function(X))


@pytest.mark.slow
def test_scores_are_ordered_and_agree_with_the_attack():
    X, y = blobs(2)
    network = quick(max_iter=30).fit(X, y)
    for eps in (0.0, 0.1, 1.0):
        certified, attacked = network.robust_bounds(X, y, eps=eps, n_steps=10)
        assert certified <= attacked <= network.score(X, y)
    points = pgd(network, X, y, eps=0.3, n_steps=50)
    assert network.robust_score(X, y, eps=0.3, attack="pgd", n_steps=50) == network.score(points, y)
    score = network.robust_score(X, y, eps=0.3)
    assert score == robust_accuracy_score(network, X, y, eps=0.3)
    assert score == network.robust_score(X, y, eps=0.3, batch_size=25)
    radius = network.certified_radius(X, y)
    assert np.all(radius[network.predict(X) != y] == 0)
    assert np.mean(radius > 0.3) == pytest.approx(network.certified_score(X, y, eps=0.3), abs=0.02)
    weight = (network.predict(X) == y).astype(float)
    assert network.robust_score(X, y, weight, eps=0.0) == 1
    unseen = np.where(np.arange(60) < 30, "yew", y)
    assert network.robust_score(X, unseen, eps=0.0) <= 0.5
    assert network.certified_score(X, unseen, eps=0.0) <= 0.5


def test_two_outputs_for_two_classes():
    X, y = blobs(2)
    network = quick(module=lambda: nn.Linear(4, 2), max_iter=60).fit(X, y)
    scores = network.decision_function(X)
    assert scores.shape == (60,)
    np.testing.assert_allclose(network.predict_proba(X)[:, 1], 1 / (1 + np.exp(-scores)), rtol=1e-5)
    assert network.score(X, y) > 0.9
    assert network.robust_score(X, y, eps=0.01) > 0.8


def test_copies_and_pickles_predict_alike_and_train_on_alike():
    X, y = blobs()
    network = quick(optimizer_params={"momentum": 0.9}, warm_start=True).fit(X, y)
    for other in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        np.testing.assert_array_equal(other.decision_function(X), network.decision_function(X))
        other.fit(X, y)
        assert not torch.equal(weights(other), weights(network))
    np.testing.assert_array_equal(
        copy.deepcopy(network).fit(X, y).decision_function(X),
        pickle.loads(pickle.dumps(network)).fit(X, y).decision_function(X),
    )
    assert not hasattr(clone(network), "module_")
    for ask in ("predict", "robust_score", "certified_score", "robust_bounds", "perturb"):
        with pytest.raises(NotFittedError):
            getattr(clone(network), ask)(*(X,) if ask == "predict" else (X, y))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_saved_on_a_gpu_loads_on_a_cpu():
    X, y = blobs()
    network = quick(device="cuda", optimizer=torch.optim.Adam, warm_start=True).fit(X, y)
    loaded = pickle.loads(pickle.dumps(network))
    assert {p.device.type for p in loaded.module_.parameters()} == {"cpu"}
    np.testing.assert_allclose(loaded.predict_proba(X), network.predict_proba(X), atol=1e-6)
    loaded.set_params(device=None).fit(X, y)


@pytest.mark.parametrize("optimizer", ["steepest_descent", torch.optim.Adam])
def test_partial_fit_and_warm_start_go_on_where_training_was(optimizer):
    X, y = blobs()
    options = {
        "optimizer": optimizer,
        "loss_tol": 0.0,
        "max_iter": 4,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "batch_size": None,
    }
    whole = quick(**options).fit(X, y)
    parts = quick(**options)
    for _ in range(4):
        parts.partial_fit(X, y, classes=NAMES)
    np.testing.assert_allclose(parts.decision_function(X), whole.decision_function(X))
    assert parts.n_iter_ == whole.n_iter_ == 4
    warm = quick(**{**options, "max_iter": 2}, warm_start=True).fit(X, y).fit(X, y)
    np.testing.assert_allclose(warm.decision_function(X), whole.decision_function(X))
    assert len(warm.history_["log_risk"]) == 4
    slow = clone(whole).set_params(warm_start=True).fit(X, y)
    before = weights(slow).clone()
    # what is remembered does not override new settings
    slow.set_params(learning_rate=1e-12).fit(X, y)
    torch.testing.assert_close(weights(slow), before)


def test_partial_fit_knows_its_classes():
    X, y = blobs()
    network = quick().partial_fit(X[:1], y[:1], classes=NAMES)
    assert network.classes_.tolist() == NAMES.tolist()
    with pytest.raises(ValueError, match=r"labels that are not in classes_ .*: \['yew'\]"):
        network.partial_fit(X[:1], ["yew"])
    with pytest.raises(ValueError, match="class_weight='balanced'"):
        quick(class_weight="balanced").partial_fit(X, y)


@pytest.mark.parametrize("patience", [5, None])
def test_early_stopping_keeps_the_weights_of_the_best_epoch_and_is_off_by_default(patience):
    X, y = blobs(n=90)
    flipped = np.where(np.arange(90) % 4 == 0, NAMES[0], y)
    states = []

    class Keep:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "epoch":
                states.append(copy.deepcopy(fitted_estimator.module_.state_dict()))

    options = {"max_iter": 30 if patience is None else 300, "eps": 0.2}
    options["n_iter_no_change"] = patience
    network = (
        quick(early_stopping=True, validation_fraction=0.3, **options)
        .set_callbacks(Keep())
        .fit(X, flipped)
    )
    best = int(np.argmax(network.history_["validation_robust_accuracy"]))
    assert best < len(states) - 1
    assert len(states) == 30 if patience is None else len(states) < 300
    for name, value in network.module_.state_dict().items():
        assert torch.equal(value, states[best][name])
    assert not all(
        torch.equal(value, states[-1][name]) for name, value in network.module_.state_dict().items()
    )
    assert "validation_robust_accuracy" not in quick(max_iter=2).fit(X, flipped).history_


def test_callbacks():
    X, y = blobs()
    callback = pytest.importorskip("sklearn.callback")
    monitor = callback.ScoringMonitor(scoring="accuracy")
    network = quick(max_iter=6).set_callbacks(monitor).fit(X, y)
    scores = [row["accuracy"] for row in monitor.get_logs().data if "accuracy" in row]
    assert len(scores) >= 6
    assert scores[-1] == network.score(X, y)

    class Stop:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context):
            return context.task_name == "epoch" and context.task_id == 2

    assert quick(max_iter=6).set_callbacks(Stop()).fit(X, y).n_iter_ == 3


def test_verbose_prints_every_so_many_epochs_or_ever_rarer_ones(capsys):
    X, y = blobs()
    for verbose, epochs in ((5, [5, 10, 15]), (1, [1, 2, 4, 8, 15])):
        quick(verbose=verbose).fit(X, y)
        printed = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in printed] == [f"epoch {epoch}" for epoch in epochs]
    ended = quick(verbose=1, loss_tol=0.5, max_iter=50).fit(X, y).n_iter_
    assert ended.bit_count() > 1
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"epoch {ended}:")


@pytest.mark.filterwarnings("default")
def test_a_fit_that_is_cut_short_warns():
    X, y = blobs()
    with pytest.warns(
        ConvergenceWarning, match=r"after max_iter=1 epochs .* of constant scores.* accuracy 0"
    ):
        quick(max_iter=1, learning_rate=1e-6).fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"module": 3},
            "module must be a torch.nn.Module, a class or function that makes one, or None, got 3",
        ),
        ({"module": lambda: 3}, "module must make a torch.nn.Module"),
        (
            {"module": nn.Linear(4, 5)},
            r"output of shape \(1, 5\); for 3 classes it must be one of \[\(1, 3\)\]",
        ),
        ({"input_shape": (1, 5)}, r"input_shape=\(1, 5\) has 5 entries, a sample of X has 4"),
        ({"q_pert": 3, "clip": (-9, 9)}, "clip goes with q = 1, 2 or inf"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    X, y = blobs()
    with pytest.raises(ValueError, match=message):
        quick(**parameters).fit(X, y)


def test_layers_without_known_bounds_have_no_certificate():
    X, y = blobs()
    network = RobustMLPClassifier((5,), activation="tanh", max_iter=2).fit(X, y)
    assert network.robust_score(X, y) <= 1
    with pytest.raises(TypeError, match="Tanh is not supported"):
        network.certified_score(X, y)
