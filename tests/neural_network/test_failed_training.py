"""What is refused, in fits and in scores, and what is left: the last fit whole, and scores by what
it used."""

import copy
import functools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.nn.utils import parametrizations, prune

from sklearn_robust import RobustMLPClassifier, RobustNetClassifier
from sklearn_robust.losses import LOSSES
from sklearn_robust.neural_network._inner_maximisation import Samples
from sklearn_robust.neural_network._training import seeded
from sklearn_robust.neural_network.modules import homogeneity, make_mlp
from sklearn_robust.regions import Region
from sklearn_robust.threats import LpBall
from sklearn_robust.verification import certified_margins

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def data(n=40, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4))
    return X, np.where(X[:, 0] + X[:, 1] > 0, "yes", "no")


class Layers(nn.Sequential):
    """With batch norm and dropout, and a switch that interrupts a pass in training mode."""

    armed = False

    def __init__(self, input_shape, n_outputs):
        super().__init__(
            nn.Linear(*input_shape, 6),
            nn.BatchNorm1d(6),
            nn.Dropout(0.5),
            nn.ReLU(),
            nn.Linear(6, n_outputs),
        )

    def forward(self, x):
        if Layers.armed and self.training and self[1].num_batches_tracked > 2:
            raise KeyboardInterrupt
        return super().forward(x)


@pytest.fixture
def armed():
    Layers.armed = False
    yield
    Layers.armed = False


class Failing:
    """A callback that raises at the end of an epoch."""

    def __init__(self, error):
        self.error = error

    def setup(self, estimator, context): ...
    def teardown(self, estimator, context): ...
    def on_fit_task_begin(self, estimator, context): ...
    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name == "epoch" and context.task_id == 1:
            raise self.error


def net(**options):
    return RobustNetClassifier(
        Layers,
        **{
            "optimizer": torch.optim.Adam,
            "batch_size": 10,
            "max_iter": 4,
            "loss_tol": 0,
            "random_state": 0,
            **options,
        },
    )


def image(network, X):
    """Everything that the next prediction, score or epoch depends on."""
    return (
        network.decision_function(X),
        copy.deepcopy(network.module_.state_dict()),
        copy.deepcopy(network._optimizer_state),
        network._rng.get_state(legacy=False)["state"]["key"].copy(),
        copy.deepcopy(network.history_),
        (
            network.n_iter_,
            network.n_features_in_,
            network.classes_.tolist(),
            network.threat_,
            network._loss,
            network._clip,
        ),
        [part.training for part in network.module_.modules()],
    )


def assert_same(one, other):
    torch.testing.assert_close(one[1], other[1], rtol=0, atol=0)
    torch.testing.assert_close(one[2][1], other[2][1], rtol=0, atol=0)
    assert one[2][0] is other[2][0]
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[3], other[3])
    assert one[4:] == other[4:]


def frame_of_names(X, y):
    return pd.DataFrame(X, columns=list("abcd"))[["a"]], y


FAILURES = {
    "interrupted in an epoch": ({}, None, KeyboardInterrupt),
    "a callback that raises": (
        {},
        Failing(ZeroDivisionError("of the callback")),
        ZeroDivisionError,
    ),
    "out of memory": ({}, Failing(MemoryError()), MemoryError),
    "an absent device": ({"device": "nowhere"}, None, ValueError),
    "an optimiser that refuses": ({"optimizer_params": {"lr": -1.0}}, None, ValueError),
    "a clip that the samples leave": ({"clip": (-0.1, 0.1)}, None, ValueError),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "warm_start"), [(how, i % 2 == 1) for i, how in enumerate(FAILURES)]
)
def test_a_fit_that_fails_leaves_the_last_one_whole(how, warm_start, armed):
    parameters, callback, error = FAILURES[how]
    X, y = data()
    network = net(eps=0.05, warm_start=warm_start).fit(X, y)
    before, other = image(network, X), np.where(y == "yes", "ja" if not warm_start else "yes", "no")
    twin = copy.deepcopy(network)
    network.set_params(eps=0.3, loss="exponential", **parameters)
    if callback is not None:
        network.set_callbacks(callback)
    Layers.armed = callback is None
    with pytest.raises(error):
        network.fit(2 * X, other)
    Layers.armed = False
    assert_same(image(network, X), before)
    network.set_params(**twin.get_params())
    if callback is not None:
        network.set_callbacks()
    # and it trains on as if nothing had been
    assert_same(image(network.fit(X, y), X), image(twin.fit(X, y), X))


def test_a_partial_fit_that_is_interrupted_leaves_the_last_one_whole(armed):
    X, y = data()
    network = net().partial_fit(X, y)
    before, twin = image(network, X), copy.deepcopy(network)
    Layers.armed = True
    with pytest.raises(KeyboardInterrupt):
        network.partial_fit(X, y)
    Layers.armed = False
    assert_same(image(network, X), before)
    assert_same(image(network.partial_fit(X, y), X), image(twin.partial_fit(X, y), X))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_first_fit_that_fails_is_no_fit(method, armed):
    X, y = data()
    for network in (
        net(device="nowhere"),
        RobustNetClassifier(nn.Linear(4, 7)),
        RobustNetClassifier(nn.Flatten()),
    ):
        with pytest.raises(
            ValueError,
            match=(
                r"not available|for 2 classes it must be|must have parameters that can be trained"
            ),
        ):
            getattr(network, method)(X, y)
        assert not any(name.endswith("_") and not name.startswith("_") for name in vars(network))
        with pytest.raises(NotFittedError):
            network.predict(X)
    network, Layers.armed = net(), True
    with pytest.raises(KeyboardInterrupt):
        network.fit(X, y)
    with pytest.raises(NotFittedError):
        network.predict(X)


def test_training_goes_on_in_a_copy_of_the_module():
    X, y = data()
    network = net(warm_start=True).fit(X, y)
    module = network.module_
    weight = module[0].weight.detach().clone()
    network.fit(X, y)
    assert network.module_ is not module
    assert torch.equal(module[0].weight, weight)
    assert not torch.equal(network.module_[0].weight, weight)


def test_predictions_do_not_depend_on_the_mode_of_the_module():
    X, y = data()
    network = net().fit(X, y)
    expected = network.decision_function(X)
    network.module_.train()
    np.testing.assert_array_equal(network.decision_function(X), expected)
    np.testing.assert_array_equal(network.decision_function(X), expected)
    assert network.module_.training


def test_modules_that_keep_results_of_their_last_pass_are_copied():
    X, y = data()

    def pruned(input_shape, n_outputs):
        module = make_mlp(*input_shape, n_outputs, (6,))
        prune.random_unstructured(module[0], "weight", amount=0.5)
        return module

    options = {"max_iter": 2, "random_state": 0, "warm_start": True}
    for network in (
        RobustNetClassifier(pruned, **options),
        RobustNetClassifier(pruned((4,), 1), **options),
    ):
        zeros = network.fit(X, y).module_[0].weight_mask == 0
        assert torch.all(network.fit(X, y).module_[0].weight[zeros] == 0)
        np.testing.assert_array_equal(
            copy.deepcopy(network).decision_function(X), network.decision_function(X)
        )


def test_classes_cannot_change():
    X, y = data()
    network = net(warm_start=True).fit(X, y)
    for labels, message in (
        (
            np.where(y == "yes", "ja", y),
            r"labels that are not in classes_ \['no', 'yes'\]: \['ja'\]",
        ),
        (
            np.full(len(y), "no"),
            r"the classes of the last fit, \['no', 'yes'\], got \['no'\]. Use partial_fit, or "
            r"warm_start=F",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            network.fit(X, labels)
    one = np.flatnonzero(y == "no")
    assert network.partial_fit(X[one], y[one]).partial_fit(X, y, classes=["yes", "no"]).n_iter_ == 6
    with pytest.raises(
        ValueError,
        match=r"classes=\['no', 'yes', 'maybe'\] are not those of the first call, \['no', 'yes'\]",
    ):
        network.partial_fit(X, y, classes=["no", "yes", "maybe"])


# --- what scores use


@pytest.mark.slow
def test_scores_are_those_of_the_threat_the_loss_and_the_clip_of_the_fit():
    X, y = data(20)
    X = 1 / (1 + np.exp(-X))
    scale = np.array([1.0, 1.0, 0.5, 2.0])
    network = RobustMLPClassifier(
        (8,), eps=0.1, q_pert=2, clip=(0, 1), loss="exponential", max_iter=10, random_state=0
    )
    scaled = RobustMLPClassifier((8,), eps=0.1, scale=scale, max_iter=10, random_state=0).fit(X, y)
    network.fit(X, y)
    assert network.threat_ == LpBall(2, 0.1)

    def figures():
        bounds, radius = (
            network.robust_bounds(X, y, n_steps=10),
            network.certified_radius(X, y, tol=1e-2),
        )
        return [
            *bounds,
            *radius,
            *network.predict_proba(X).ravel(),
            *network.perturb(X, y, n_steps=5).ravel(),
        ]

    before = figures()
    network.set_params(eps=0.4, q_pert=math.inf, clip=(-1, 2), loss="logistic", scale=scale)
    np.testing.assert_array_equal(figures(), before)
    assert network.robust_score(X, y, eps=0.1, q=2) == network.robust_score(X, y)
    before = scaled.robust_score(X, y, n_steps=10)
    np.testing.assert_array_equal(scaled.threat_.scale, scale)
    assert scaled.set_params(scale=np.zeros(4)).robust_score(X, y, n_steps=10) == before
    network.set_params(scale=None).partial_fit(X, y)
    assert network.threat_ == LpBall(math.inf, 0.4)
    assert network._loss is LOSSES["logistic"]


def test_bounds_that_cross_are_an_error(monkeypatch):
    X, y = data()
    network = RobustMLPClassifier((8,), eps=0.3, max_iter=40, random_state=0).fit(X, y)
    certified, attacked = network.robust_bounds(X, y)
    assert certified <= attacked < 1
    broken = round((1 - attacked) * len(X))
    monkeypatch.setattr(
        "sklearn_robust.neural_network._robustness.certified_margins",
        lambda module, inputs, index, **_: np.ones(len(inputs)),
    )
    with pytest.raises(
        RuntimeError,
        match=f"{broken} of 40 samples are certified and broken by the attack.*misread",
    ):
        network.robust_bounds(X, y)


def test_networks_with_hooks_have_attacks_and_no_certificate():
    X, y = data()
    network = RobustMLPClassifier((8,), eps=0.1, max_iter=10, random_state=0).fit(X, y)
    network.module_[0].register_forward_hook(lambda module, args, output: output - 1)
    assert 0 <= network.robust_score(X, y) <= network.score(X, y)
    with pytest.raises(TypeError, match="Layer '0': Linear has a forward hook"):
        network.robust_bounds(X, y)


def test_normalised_margins_are_those_of_plain_modules():
    module = make_mlp(4, 1, (5,), bias=False)
    assert homogeneity(module) == 2
    assert (
        homogeneity(nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 1, bias=False))))
        is None
    )
    module[0].register_forward_pre_hook(lambda module, args: None)
    assert homogeneity(module) is None


def test_probabilities_keep_their_logarithms():
    X, y = data()
    three = np.where(X[:, 0] > 1, "so", y)
    for labels in (y, three):
        network = RobustMLPClassifier((8,), max_iter=20, random_state=0).fit(X, labels)
        np.testing.assert_allclose(np.exp(network.predict_log_proba(X)), network.predict_proba(X))
        np.testing.assert_allclose(network.predict_proba(X).sum(axis=1), 1)
        with torch.no_grad():
            network.module_[-1].weight.mul_(1e4)
        assert np.all(np.isfinite(network.predict_log_proba(X)))


BAD_LABELS = {
    "nan": (np.array([math.nan] + [1.0] * 39), "NaN"),
    "None": (np.array([None] + [1] * 39, dtype=object), r"1 are missing \(None\)"),
    "NA": (pd.array([pd.NA] + [1] * 39), "NaN|missing"),
    "NA among objects": (np.array([pd.NA] + [1] * 39, dtype=object), r"1 are missing \(<NA>\)"),
    "complex": (np.full(40, 1j), "[Cc]omplex|of the type"),
    "one-hot": (np.eye(2)[[0, 1] * 20], "1d array"),
    "words": (np.array(["no", "yes"] * 20), "of the type that was seen in fit"),
    "too few": ([1, 0], "inconsistent numbers of samples"),
}


@pytest.fixture(scope="module")
def fitted():
    X, y = data()
    return RobustMLPClassifier((8,), eps=0.1, max_iter=20, random_state=0).fit(
        X, (y == "yes").astype(int)
    )


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_labels_are_validated_when_scoring(kind, fitted):
    y, message = BAD_LABELS[kind]
    X, _ = data()
    for score in (
        fitted.robust_score,
        fitted.certified_score,
        fitted.robust_bounds,
        fitted.perturb,
        fitted.certified_radius,
    ):
        with pytest.raises(ValueError, match=message):
            score(X, y)
    if kind not in ("words", "complex"):
        with pytest.raises(ValueError, match=message):
            RobustMLPClassifier((8,)).fit(X, y)


def test_labels_that_were_never_seen_are_never_right(fitted):
    X, _ = data()
    unseen = np.full(40, 7)
    assert fitted.robust_bounds(X, unseen) == (0, 0)
    assert np.all(fitted.certified_radius(X, unseen) == 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-np.ones(40), "Negative values"),
        (np.full(40, math.nan), "NaN"),
        (np.zeros(40), "at least one non-zero"),
        ([1.0], r"sample_weight\.shape"),
    ],
)
def test_weights_are_validated_when_scoring(weight, message, fitted):
    X, y = data()
    for score in (fitted.robust_score, fitted.certified_score, fitted.robust_bounds):
        with pytest.raises(ValueError, match=message):
            score(X, (y == "yes").astype(int), weight)


# --- parameters


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"class_weight": {"no": -1, "yes": 1}},
            r"class_weight\['no'\] must be a finite number >= 0, got -1",
        ),
        (
            {"class_weight": {"no": 0, "yes": 1}},
            "needs samples of at least two classes with positive weight",
        ),
        ({"validation_fraction": 2}, r"validation_fraction must be a share in \(0, 1\), got 2"),
        (
            {"clip": 3},
            r"clip must be None or a pair \(low, high\) of numbers with low < high, got 3",
        ),
        ({"clip": "ab"}, "clip must be None or a pair"),
        ({"clip": (0, None)}, "clip must be None or a pair"),
        ({"clip": (math.nan, 1)}, "clip must be None or a pair"),
        ({"clip": ([-9] * 4, [9] * 4)}, "clip must be None or a pair"),
        (
            {"optimizer_params": [1]},
            r"optimizer_params must be None or a dict of parameters by name, got \[1\]",
        ),
        ({"optimizer_params": {3: 1}}, "optimizer_params must be None or a dict"),
        (
            {"optimizer_params": {"pace": 1}},
            "optimizer_params={'pace': 1} .* do not suit optimizer='steepest_descent'",
        ),
        (
            {"optimizer_params": {"p": 3}},
            "do not suit optimizer='steepest_descent'.*multiple values",
        ),
        (
            {"optimizer": torch.optim.Adam, "optimizer_params": {"pace": 1}},
            "do not suit optimizer=<class .*Adam",
        ),
        ({"optimizer": lambda parameters: 3}, "makes a int, which is no torch.optim.Optimizer"),
        ({"learning_rate": "fast"}, "learning_rate must be a finite number > 0, got 'fast'"),
        ({"device": [1]}, r"device=\[1\] is not available"),
    ],
)
def test_parameters_of_the_wrong_kind_are_named(parameters, message):
    X, y = data()
    for estimator in (RobustMLPClassifier(**parameters), RobustNetClassifier(**parameters)):
        with pytest.raises(ValueError, match=message):
            estimator.fit(X, y)


@pytest.mark.parametrize(
    "sizes",
    [3.5, None, "12", {3: 4}, {3}, np.int64(3), (True,), (2.0,), [[3], [3, 4]], (-2, -2), (0,)],
)
def test_sizes_of_the_wrong_kind_are_named(sizes):
    X, y = data()
    with pytest.raises(
        ValueError, match=r"hidden_layer_sizes must be a(n integer >= 1| sequence of integers), got"
    ):
        RobustMLPClassifier(sizes).fit(X, y)
    if sizes is not None:
        with pytest.raises(
            ValueError, match=r"input_shape must be a(n integer >= 1| sequence of integers), got"
        ):
            RobustNetClassifier(input_shape=sizes).fit(X, y)


@pytest.mark.parametrize(
    "module", [lambda i, o: nn.Linear(*i, o), nn.Linear, lambda input_shape, width: nn.Linear(4, 1)]
)
def test_arguments_of_a_module_are_passed_by_name(module):
    X, y = data()
    with pytest.raises(
        ValueError,
        match=r"needs the arguments \['.*Only input_shape and n_outputs are passed, by name",
    ):
        RobustNetClassifier(module).fit(X, y)
    for works in (
        lambda input_shape, n_outputs: nn.Linear(*input_shape, n_outputs),
        lambda n_outputs, width=4: nn.Linear(width, n_outputs),
        lambda *_: nn.Linear(4, 1),
        functools.partial(nn.Linear, 4, 1),
    ):
        assert RobustNetClassifier(works, max_iter=1).fit(X, y).n_iter_ == 1


def batch_sizes(n, batch_size):
    x = torch.zeros(n, 1)
    samples = Samples(x, torch.arange(n), torch.ones(n), Region(x, math.inf, 0.1))
    return [len(b.x) for b in samples.batches(batch_size, torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("batch_size", [3, 13, 39])
def test_batch_norm_never_sees_a_single_sample(batch_size):
    X, y = data()  # 40 samples
    sizes = batch_sizes(40, batch_size)
    assert sum(sizes) == 40
    assert min(sizes) > 1
    net(batch_size=batch_size, max_iter=2).fit(X, y)
    assert batch_sizes(3, 1) == [1, 1, 1]


@pytest.mark.parametrize(
    "estimator", [RobustMLPClassifier((4,), max_iter=1), RobustNetClassifier(max_iter=1)]
)
def test_channels_last_are_not_taken_for_channels_first(estimator):
    X, y = np.random.default_rng(0).standard_normal((10, 3, 4, 5)).astype("float32"), [0, 1] * 5
    estimator = copy.deepcopy(estimator).fit(X, y)
    last = X.transpose(0, 2, 3, 1)
    for call in (
        estimator.predict,
        lambda X: estimator.robust_score(X, y),
        lambda X: estimator.partial_fit(X, y),
    ):
        with pytest.raises(
            ValueError,
            match=r"X has samples of shape \(4, 5, 3\), but .* was fitted on those of \(3, 4, 5\)",
        ):
            call(last)
    np.testing.assert_array_equal(
        estimator.decision_function(X.reshape(10, 60)), estimator.decision_function(X)
    )
    flat = copy.deepcopy(estimator).fit(X.reshape(10, 60), y)
    np.testing.assert_array_equal(flat.predict(X), flat.predict(X.reshape(10, 60)))


@pytest.mark.slow
def test_random_networks_have_certificates_below_their_attacks():
    for seed in range(2):
        X, y = data(30, seed)
        rng = np.random.default_rng(seed)
        X = X.astype(rng.choice(["float32", "float64"]))
        with seeded(seed, torch.device("cpu")):
            module = nn.Sequential(
                parametrizations.weight_norm(nn.Linear(4, 6)),
                nn.BatchNorm1d(6),
                nn.ReLU(),
                nn.Linear(6, 1),
            )
        network = RobustNetClassifier(
            module, max_iter=10, learning_rate=0.1, random_state=seed
        ).fit(X, y)
        for i, (eps, q) in enumerate(((0.0, 2), (0.05, math.inf), (0.2, 1), (0.2, 2))):
            method = ("interval", "crown")[(seed + i) % 2]  # each threat against both
            certified, attacked = network.robust_bounds(
                X, y, eps=eps, q=q, method=method, n_steps=8
            )
            assert certified <= attacked
        margins = certified_margins(network.module_, X, (y == "yes").astype(int), eps=0.0)
        np.testing.assert_allclose(
            margins, network.decision_function(X) * np.where(y == "yes", 1, -1), atol=1e-3
        )
