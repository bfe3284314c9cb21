"""Messages name the parameter, its value and the remedy."""

import sys

import numpy as np
import pytest

from sklearn_robust._parameters import check_choice, check_device, check_exponent, check_number


@pytest.mark.parametrize("value", [1, 2.5, np.inf, np.float32(3), np.int64(2)])
def test_exponents_become_floats(value):
    assert type(check_exponent(value, "q")) is float
    assert check_exponent(value, "q") == value


@pytest.mark.parametrize("value", [0.5, -1, np.nan, "inf", "2", None, True, [2], np.array(2.0), 10**400])
def test_bad_exponents_are_refused(value):
    with pytest.raises(ValueError, match=r"q must be a real number in \[1, inf\], got .*Use numpy.inf"):
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


def test_no_device_needs_no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch now fails
    check_device(None)
    with pytest.raises(ImportError, match=r"device='cpu' needs PyTorch: pip install \"sklearn-robust\[torch\]\""):
        check_device("cpu")


def test_devices():
    check_device("cpu")
    for device in ("cuda:77", "nonsense", "meta", 99, [1]):
        with pytest.raises(ValueError, match=r"device=.* is not available: .*Use device=None") as error:
            check_device(device)
        assert repr(device) in str(error.value)
