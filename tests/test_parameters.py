"""Messages name the parameter, its value and the remedy."""

import math
from pathlib import Path

import dask.array as da
import numpy as np
import polars
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader, TensorDataset

from sklearn_robust import (
    RobustAccuracyDisplay,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    RobustMLPClassifier,
    certified_radius,
    margin_generalization_bound,
    min_norm_separator,
    robust_accuracy_score,
)
from sklearn_robust import verification as networks
from sklearn_robust._parameters import (
    check_choice,
    check_device,
    check_exponent,
    check_number,
    class_index,
    refuse_lazy,
)
from sklearn_robust.attacks import pgd
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import NpySource
from sklearn_robust.theory import rademacher_bound
from sklearn_robust.threats import check_radius, check_scale


@pytest.mark.parametrize("value", [1, 2.5, np.inf, np.float32(3), np.int64(2)])
def test_exponents_become_floats(value):
    assert type(check_exponent(value, "q")) is float
    assert check_exponent(value, "q") == value


@pytest.mark.parametrize(
    "value", [0.5, -1, np.nan, "inf", "2", None, True, [2], np.array(2.0), 2 + 0j, 10**400]
)
def test_bad_exponents_are_refused(value):
    with pytest.raises(
        ValueError, match=r"q must be a real number in \[1, inf\], got .*Use numpy.inf"
    ):
        check_exponent(value, "q")


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_booleans_of_numpy_are_booleans(value):
    check_choice(value, "fit_intercept", (True, False))


@pytest.mark.parametrize("value", [1, 0, "True", None, np.int64(1), np.array([True])])
def test_what_is_not_one_of_the_choices_is_refused(value):
    with pytest.raises(ValueError, match=r"fit_intercept must be one of \[True, False\], got"):
        check_choice(value, "fit_intercept", (True, False))


def test_numbers():
    check_number(np.float32(0.5), "tol", low=0)
    with pytest.raises(ValueError, match="tol must be a finite number >= 0, got 1000"):
        check_number(10**400, "tol", low=0)
    with pytest.raises(ValueError, match="tol must be a finite number > 0, got 0"):
        check_number(0, "tol", low=0, strict=True)
    with pytest.raises(ValueError, match=r"max_iter must be an integer >= 1, got 2\.0"):
        check_number(2.0, "max_iter", low=1, integer=True)


NO_NUMBERS = [
    np.True_,
    False,
    "0.1",
    b"1",
    None,
    [0.1],
    0.1 + 0j,
    np.array(0.1),
    10**400,
    np.longdouble("1e400"),
    math.nan,
]


@pytest.mark.parametrize(
    "value", NO_NUMBERS, ids=lambda value: f"{type(value).__name__} {value!r:.10}"
)
def test_what_is_no_finite_number_is_refused(value):
    message = r"eps must be a finite number >= 0, got "
    with pytest.raises(ValueError, match=message):
        check_radius(value, "eps")
    with pytest.raises(ValueError, match=message):
        check_number(value, "eps", low=0)
    with pytest.raises(ValueError, match="eps must be an integer >= 0, got "):
        check_number(value, "eps", low=0, integer=True)


@pytest.mark.parametrize(
    "scale",
    [
        "ab",
        ["1", "2"],
        [b"1", 2],
        np.array(["1", 2.0], dtype=object),
        polars.Series(["1", "2"]),
        [1, 2 + 0j],
        np.array([1, 2j]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        [1, 10**400],
        [[1], [2, 3]],
        {1.0},
    ],
    ids=repr,
)
def test_what_holds_other_things_than_numbers_is_no_scale(scale):
    with pytest.raises(ValueError, match="scale must hold a number >= 0 for each feature, got "):
        check_scale(scale, "scale")


@pytest.mark.parametrize(
    "scale", [[True, False], np.array([1, 0], dtype=object), polars.Series([1, 0]), np.int8([1, 0])]
)
def test_scales_become_floats(scale):
    np.testing.assert_array_equal(check_scale(scale, "scale"), [1.0, 0.0])


def test_devices():
    check_device(None)
    check_device("cpu")
    for device in ("cuda:77", "nonsense", "meta", 99, [1]):
        with pytest.raises(
            ValueError, match=r"device=.* is not available: .*Use device=None"
        ) as error:
            check_device(device)
        assert repr(device) in str(error.value)


def collection(module):
    """An object of a class that is defined in this module: the library is not needed to know it."""

    def load(self, *args, **kwargs):
        raise AssertionError("loaded whole")

    return type(
        "Collection",
        (),
        {"__module__": module, "__array__": load, "__len__": load, "__getitem__": load},
    )()


PAIRS = TensorDataset(torch.zeros(2, 1), torch.zeros(2))
LAZY = {
    "dask array": (
        da.zeros(3),
        r"got a dask.array.core.Array. Use sklearn_robust.distributed, .*, or X.compute\(\)\.",
    ),
    "dask frame": (
        collection("dask.dataframe.dask_expr._collection"),
        r"Use sklearn_robust.distributed",
    ),
    "dask bag": (collection("dask.bag.core"), r"Use sklearn_robust.distributed"),
    "dask future": (collection("distributed.client"), r"Use X.result\(\)\."),
    "spark frame": (collection("pyspark.sql.dataframe"), r"Use X.toPandas\(\)\."),
    "polars lazy frame": (
        polars.LazyFrame({"a": [0.0, 1.0]}),
        r"got a polars.*LazyFrame. Use X.collect\(\)\.",
    ),
    "torch loader": (DataLoader(PAIRS), r"DataLoader. Use one tensor of all samples"),
    "torch data set": (PAIRS, r"TensorDataset. Use one tensor of all samples"),
    "generator": ((row for row in [[0.0], [1.0]]), r"got a generator. Use list\(X\)"),
    "zip": (zip([0.0], [1.0], strict=True), r"got a zip. Use list\(X\)"),
    "path": (
        Path("data.csv"),
        r"Path. Use what the file holds, by numpy.load\(X\), pandas.read_csv\(X\)",
    ),
    "row source": (
        NpySource("X.npy", "y.npy"),
        r"NpySource. Use sklearn_robust.rows.BlockRows\(X\), which reads it",
    ),
    "name of a file": ("data.npy", r"got a str. Use what the file holds"),
}


@pytest.mark.parametrize("name", LAZY)
def test_data_elsewhere_is_refused_before_it_is_loaded(name):
    value, message = LAZY[name]
    with pytest.raises(TypeError, match=f"X must be an array or a frame in memory, .*{message}"):
        refuse_lazy(y=None, X=value)


def test_data_in_memory_are_not_refused():
    frames = (
        polars.DataFrame({"a": [0.0]}),
        torch.zeros(2),
        np.zeros(2),
        [[0.0]],
        range(3),
        None,
        memoryview(b"ab"),
    )
    for value in frames:
        refuse_lazy(X=value)


X, Y = np.array([[-1.0], [1.0]]), np.array([0, 1])
SIGNS = np.array([-1.0, 1.0])
MODEL = RobustLinearClassifier(eps=0.1).fit(X, Y)
NETWORK = torch.nn.Linear(1, 2)
TAKING_X_AND_Y = {
    "fit": RobustLinearClassifier().fit,
    "cross-validation": RobustLinearClassifierCV(threat_eps=0.1).fit,
    "diagonal network": RobustDiagonalNet().fit,
    "network": RobustMLPClassifier((2,), max_iter=1).fit,
    "more of a network": RobustMLPClassifier((2,), max_iter=1).partial_fit,
    "separator": lambda X, y: min_norm_separator(X, y, p=2, q=2, eps=0),
    "problem": lambda X, y: RobustProblem.from_data(X, y, q=2, eps=0, fit_intercept=False),
    "robust score": MODEL.robust_score,
    "another library's score": lambda X, y: robust_accuracy_score(
        LogisticRegression().fit([[0], [1]], Y), X, y, eps=0
    ),
    "radius": lambda X, y: certified_radius(MODEL, X, y),
    "worst points": MODEL.perturb,
    "picture": lambda X, y: RobustAccuracyDisplay.from_estimator(MODEL, X, y),
    "theory": lambda X, y: margin_generalization_bound(X, y, np.ones(1), r=2, eps=0, radius=1),
    "attack": lambda X, y: pgd(NETWORK, X, y, eps=0.1),
    "certified radius": lambda X, y: networks.certified_radius(NETWORK, X, y, q=2),
}


@pytest.mark.parametrize("name", TAKING_X_AND_Y)
def test_every_door_refuses_data_elsewhere(name):
    lazy = collection("dask.array.core")
    with pytest.raises(
        TypeError,
        match=r"X must be an array or a frame in memory, .*Use sklearn_robust.distributed",
    ):
        TAKING_X_AND_Y[name](lazy, SIGNS if name == "problem" else Y)
    with pytest.raises(
        TypeError,
        match=r"y must be an array or a frame in memory, .*Use sklearn_robust.distributed",
    ):
        TAKING_X_AND_Y[name](X, lazy)


def test_what_takes_X_alone_refuses_data_elsewhere():
    network = RobustMLPClassifier((2,), max_iter=1, loss_tol=1e9, random_state=0)
    network.fit(X, Y)
    margins = lambda lazy: networks.certified_margins(NETWORK, lazy, Y, eps=0.1)  # noqa: E731
    for function in (
        MODEL.predict,
        MODEL.predict_proba,
        network.predict,
        margins,
        lambda lazy: rademacher_bound(lazy, r=2),
    ):
        with pytest.raises(TypeError, match="X must be an array or a frame in memory"):
            function(collection("dask.array.core"))
    for score in (network.robust_score, network.certified_score):
        with pytest.raises(TypeError, match="y must be an array or a frame in memory"):
            score(X, collection("dask.array.core"))


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        ([3, 1, 2], [2, 3, 7, 0, 1]),
        ([3, 1, 2], [2.0, 3.0, 1.5]),
        (["b", "a", "ccc"], ["a", "cc", "ccc", "z", ""]),
        ([False, True], [True, False]),
        ([2**53, 2**53 + 1], [2**53 + 1, 2**53]),
        ([1, 2], []),
    ],
)
def test_labels_have_the_places_of_their_classes(classes, labels):
    expected = [classes.index(label) if label in classes else -1 for label in labels]
    for dtype in (None, object):
        found = class_index(np.array(labels, dtype=dtype), np.array(classes))
        assert found.tolist() == expected
