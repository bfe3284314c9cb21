"""Tests marked pairwise: of the product of their parameters every pair of values is run."""

from itertools import combinations, product
from types import SimpleNamespace

import pytest

FACTORS = {"p": (1, 1.5, 2), "name": ("a", "b"), ("n", "d"): ((9, 2), (2, 9), (5, 5)), "c": (0, 1)}


class Case:
    """What the selection reads of a test; c is the parameter of a fixture, without a decorator."""

    def __init__(self, values):
        self.values, params = values, {}
        for names, value in zip(FACTORS, values, strict=True):
            params |= (
                zip(names, value, strict=True) if isinstance(names, tuple) else [(names, value)]
            )
        self.callspec = SimpleNamespace(params=params)

    def iter_markers(self, name):
        return [SimpleNamespace(args=(names,)) for names in FACTORS if names != "c"]


@pytest.fixture
def uncovered(request):
    """The function of conftest.py."""
    plugins = request.config.pluginmanager.get_plugins()
    return next(plugin.uncovered for plugin in plugins if hasattr(plugin, "uncovered"))


def pairs_of(tests):
    return {pair for test in tests for pair in combinations(enumerate(test.values), 2)}


def test_every_pair_of_values_is_run(uncovered):
    tests = [Case(values) for values in product(*FACTORS.values())]
    left_out = uncovered(tests)
    kept = [test for test in tests if test not in left_out]
    assert pairs_of(kept) == pairs_of(tests)
    assert 9 <= len(kept) <= 12  # 9 are the pairs of the two longest parameters, of 36 tests


def test_a_test_alone_is_run(uncovered):
    """As where it is chosen by its name."""
    assert uncovered([Case((2, "b", (5, 5), 1))]) == []
