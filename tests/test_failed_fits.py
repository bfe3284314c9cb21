"""A fit that fails, in whatever way, leaves the last one as it was; an estimator that was never
fitted stays so."""

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from sklearn_robust import (
    MinNormRobustClassifier,
    NotSeparableError,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    RobustMLPClassifier,
    RobustNetClassifier,
)
from sklearn_robust.neural_network.optim import SteepestDescent
from sklearn_robust.problems import RobustProblem


def with_dropout(input_shape, n_outputs):
    return torch.nn.Sequential(
        torch.nn.Linear(*input_shape, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, n_outputs)
    )


NETWORK = {"max_iter": 2, "batch_size": 8, "loss_tol": 0, "random_state": 0}
LINEAR = [
    RobustLinearClassifier(solver="steepest_descent", loss="logistic"),
    RobustLinearClassifier(solver="accelerated"),
    RobustLinearClassifier(solver="exact"),
    RobustLinearClassifierCV(2, eps=[0.05, 0.1], threat_eps=0.1, cv=2, verbose=0),
    MinNormRobustClassifier(),
    RobustDiagonalNet(),
]
NETWORKS = [
    RobustMLPClassifier((4,), **NETWORK),
    RobustNetClassifier(**NETWORK),
    RobustNetClassifier(with_dropout, **NETWORK),
]
rng = np.random.default_rng(0)
FIRST = (
    pd.DataFrame(rng.standard_normal((24, 2)), columns=["height", "weight"]),
    np.repeat(["cat", "dog"], 12),
)
FIRST[0].iloc[12:, 0] += 6.0
NEXT = (
    pd.DataFrame(rng.standard_normal((30, 3)), columns=["a", "b", "c"]),
    np.repeat(["no", "yes"], 15),
)
NEXT[0].iloc[15:, 0] += 6.0


class Raises:
    """A callback that raises where a task ends."""

    def setup(self, estimator, context): ...
    def teardown(self, estimator, context): ...
    def on_fit_task_begin(self, estimator, context): ...
    def on_fit_task_end(self, estimator, context):
        raise ZeroDivisionError("in a callback")


def one_class(model, monkeypatch):
    return {"X": NEXT[0], "y": np.repeat("no", 30)}


def weights_of_one_class(model, monkeypatch):
    return {"sample_weight": np.repeat([0.0, 1.0], 15)}


def negative_weights(model, monkeypatch):
    return {"sample_weight": np.repeat([-1.0, 1.0], 15)}


def scale_of_other_features(model, monkeypatch):
    model.set_params(scale=[1.0, 0.5])
    return {}


def not_separable(model, monkeypatch):
    model.set_params(not_separable="raise", eps=2.0)
    return {"X": NEXT[0], "y": np.tile(["no", "yes"], 15)}


def interrupted(model, monkeypatch, error=KeyboardInterrupt):
    """In the middle of what the fit computes."""
    owner, name = (
        (SteepestDescent, "step")
        if hasattr(model, "batch_size")
        else (RobustProblem, "signed_scores")
    )
    calls, original = iter(range(1000)), getattr(owner, name)

    def stops(*args, **kwargs):
        if next(calls) >= 1:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, stops)
    return {}


def out_of_memory(model, monkeypatch):
    return interrupted(model, monkeypatch, MemoryError)


def interrupted_after_a_warm_start(model, monkeypatch):
    model.set_params(warm_start=True, scale=[1.0, 0.5])
    return {"X": FIRST[0], "y": FIRST[1], **interrupted(model, monkeypatch)}


def a_callback_raises(model, monkeypatch):
    model.set_callbacks(Raises())
    return {}


def a_warm_start_is_refused(model, monkeypatch):
    model.set_params(warm_start=True)
    return {}


def no_such_device(model, monkeypatch):
    model.set_params(device="cuda:99")
    return {}


def a_module_of_other_outputs(model, monkeypatch):
    model.set_params(module=torch.nn.Linear(3, 5))
    return {}


def no_module(model, monkeypatch):
    model.set_params(module="linear")
    return {}


WAYS = [
    (one_class, ValueError, LINEAR + NETWORKS),
    (weights_of_one_class, ValueError, LINEAR + NETWORKS),
    (negative_weights, ValueError, LINEAR + NETWORKS),
    (scale_of_other_features, ValueError, LINEAR + NETWORKS),
    (not_separable, NotSeparableError, LINEAR[4:5]),
    (interrupted, KeyboardInterrupt, LINEAR + NETWORKS),
    (out_of_memory, MemoryError, LINEAR + NETWORKS),
    (interrupted_after_a_warm_start, KeyboardInterrupt, [*LINEAR[:1], *NETWORKS]),
    (a_callback_raises, ZeroDivisionError, LINEAR + NETWORKS),
    (a_warm_start_is_refused, ValueError, [*LINEAR[:1], *NETWORKS]),
    (no_such_device, ValueError, [LINEAR[0], LINEAR[1], LINEAR[5], *NETWORKS]),
    (a_module_of_other_outputs, ValueError, NETWORKS[1:2]),
    (no_module, ValueError, NETWORKS[1:2]),
]
EVERY = [(estimator, way, error) for way, error, estimators in WAYS for estimator in estimators]


def name_of(value):
    """A name that is the same in every process: a function is printed with its address."""
    if not hasattr(value, "get_params"):
        return getattr(value, "__name__", None)
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(value).split()))


def state(model):
    """What a fitted estimator answers, and its public attributes."""
    X, y = FIRST
    options = {"n_steps": 5} if hasattr(model, "module_") else {}
    figures = {
        name: np.array(value)
        for name, value in vars(model).items()
        if name.endswith("_") and np.ndim(value) < 3
    }
    figures = {name: value for name, value in figures.items() if value.dtype != object}
    return {
        "scores": model.decision_function(X),
        "labels": model.predict(X),
        "robust": model.robust_score(X, y, **options),
        "threat": vars(model.threat_),
        "classes": model.classes_.tolist(),
        **figures,
    }


def assert_same(after, before):
    assert after.keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_equal(after[name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn_robust.NotSeparableWarning")
@pytest.mark.parametrize("estimator", LINEAR + NETWORKS, ids=name_of)
def test_a_failed_fit_leaves_the_last_one(estimator, monkeypatch):
    model = clone(estimator).set_params(scale=[1.0, 0.5]).fit(*FIRST)
    before = state(model)
    for way, error, estimators in WAYS:
        if estimator not in estimators:
            continue
        model.set_params(**estimator.get_params(deep=False)).set_callbacks()
        arguments = {"X": NEXT[0], "y": NEXT[1], **way(model, monkeypatch)}
        with pytest.raises(error):
            model.fit(**arguments)
        monkeypatch.undo()
        assert_same(state(model), before)
        assert model.n_features_in_ == 2
        assert model.feature_names_in_.tolist() == ["height", "weight"]
        assert model.scale_.tolist() == [1.0, 0.5]
        assert model.threat_.q == math.inf
        if hasattr(model, "module_"):
            assert not any(module.training for module in model.module_.modules())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("estimator", "way", "error"),
    [case for case in EVERY if "warm" not in case[1].__name__],
    ids=name_of,
)
def test_a_first_fit_that_fails_is_no_fit(estimator, way, error, monkeypatch):
    model = clone(estimator)
    arguments = {"X": NEXT[0], "y": NEXT[1], **way(model, monkeypatch)}
    with pytest.raises(error):
        model.fit(**arguments)
    monkeypatch.undo()
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    for method in (model.predict, model.decision_function):
        with pytest.raises(NotFittedError):
            method(NEXT[0])
    assert not [name for name in vars(model) if name.endswith("_")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("estimator", NETWORKS, ids=name_of)
@pytest.mark.parametrize("way", [one_class, negative_weights, interrupted, out_of_memory])
def test_a_failed_partial_fit_leaves_the_last_one(estimator, way, monkeypatch):
    model = clone(estimator).set_params(scale=[1.0, 0.5]).fit(*FIRST)
    before = state(model)
    arguments = {"X": FIRST[0], "y": FIRST[1], **way(model, monkeypatch)}
    if "sample_weight" in arguments:
        arguments["sample_weight"] = arguments["sample_weight"][:24]
    with pytest.raises((ValueError, KeyboardInterrupt, MemoryError)):
        model.partial_fit(**arguments)
    monkeypatch.undo()
    assert_same(state(model), before)


def test_the_labels_of_a_failed_fit_do_not_name_the_last_coefficients():
    model = MinNormRobustClassifier(eps=0.1, not_separable="raise").fit(
        [[0.0], [1.0]], ["cat", "dog"]
    )
    with pytest.raises(NotSeparableError):
        model.fit([[0.0], [1.0], [2.0]], ["no", "yes", "no"])
    assert model.predict([[0.0], [1.0]]).tolist() == ["cat", "dog"]
