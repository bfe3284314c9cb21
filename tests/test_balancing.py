import numpy as np
import pytest

from sklearn_robust.balancing import _cycle, balancing_factors, balancing_potentials


def imbalance(entries):
    return np.abs(entries.sum(axis=1) / entries.sum(axis=0) - 1).max()


@pytest.mark.parametrize("n_classes", [2, 3, 10, 40])
def test_rows_and_columns_have_equal_sums(n_classes):
    logs = 3 * np.random.default_rng(n_classes).standard_normal((n_classes, n_classes))
    g = balancing_potentials(logs)
    scaled = np.exp(logs + g[:, None] - g)
    np.fill_diagonal(scaled, 0)
    assert imbalance(scaled) < 1e-12
    assert abs(g.sum()) < 1e-12 * n_classes


def test_entries_may_lie_any_orders_apart():
    logs = np.random.default_rng(0).uniform(-3000, 3000, (5, 5))
    g = balancing_potentials(logs)
    scaled = logs + g[:, None] - g
    np.fill_diagonal(scaled, -np.inf)
    rows, columns = np.logaddexp.reduce(scaled, axis=1), np.logaddexp.reduce(scaled, axis=0)
    np.testing.assert_allclose(rows, columns, atol=1e-9)


def test_balanced_matrices_stay():
    entries = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(balancing_factors(entries), entries, atol=1e-15)


def test_entries_on_no_cycle_are_dropped():
    entries = np.array([[0.0, 2, 1, 0], [1, 0, 1, 0], [0, 0, 0, 3], [0, 0, 1, 0]])
    scaled = entries * balancing_factors(entries)
    assert scaled[0, 2] == scaled[1, 2] == 0
    np.testing.assert_allclose(scaled.sum(axis=0), scaled.sum(axis=1))
    assert not balancing_factors(np.triu(np.ones((3, 3)))).any()


def test_a_cycle_balances_one_class_after_another():
    logs = np.random.default_rng(0).uniform(-300, 300, (10, 10))
    np.fill_diagonal(logs, -np.inf)
    g = _cycle(logs, np.zeros(10))
    scaled = logs + g[:, None] - g
    row, column = np.logaddexp.reduce(scaled[-1]), np.logaddexp.reduce(scaled[:, -1])
    assert row == pytest.approx(column, abs=1e-11)
