import cvxpy as cp
import numpy as np
import pytest

from sklearn_robust.total_variation import class_sets, cut_excess, total_variation_prox


def drawn(n_classes, d=4, seed=0):
    rng = np.random.default_rng(seed)
    g = rng.standard_normal((n_classes, d))
    capacities = rng.exponential(size=(n_classes * (n_classes - 1) // 2, d))
    return g - g.mean(axis=0), capacities * rng.choice([0.03, 0.2, 0.6], size=d)


def incidence(n_classes):
    low, high = np.triu_indices(n_classes, 1)
    matrix = np.zeros((len(low), n_classes))
    matrix[np.arange(len(low)), low], matrix[np.arange(len(low)), high] = 1, -1
    return matrix


@pytest.mark.parametrize("n_classes", [2, 3, 4, 6])
def test_prox_solves_its_program(n_classes):
    g, capacities = drawn(n_classes, seed=n_classes)
    u = total_variation_prox(g, capacities)
    B = incidence(n_classes)
    for j in range(g.shape[1]):
        x = cp.Variable(n_classes)
        total_variation = capacities[:, j] @ cp.abs(B @ x)
        cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - g[:, j]) + total_variation)).solve(
            solver="CLARABEL"
        )
        np.testing.assert_allclose(u[:, j], x.value, atol=1e-6)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, np.inf])
def test_prox_leaves_the_distance_to_the_flows_in_every_norm(p):
    g, capacities = drawn(5, seed=1)
    u, B = total_variation_prox(g, capacities), incidence(5)
    for j in range(g.shape[1]):
        flow = cp.Variable(len(B))
        distance = cp.Problem(
            cp.Minimize(cp.norm(g[:, j] - B.T @ flow, p)), [cp.abs(flow) <= capacities[:, j]]
        ).solve(solver="CLARABEL")
        assert np.linalg.norm(u[:, j], p) == pytest.approx(distance, abs=1e-5)


def test_two_classes_give_the_soft_threshold():
    g = np.array([[0.3, -2.0, 1.0]])
    u = total_variation_prox(np.concatenate([g, -g]), np.full((1, 1), 0.5))
    np.testing.assert_allclose(u[0], np.sign(g[0]) * np.maximum(np.abs(g[0]) - 0.5, 0))


def test_pairs_that_are_not_tied_are_not_joined():
    g, capacities = drawn(5, seed=2)
    low, high = np.triu_indices(5, 1)
    group = np.array([0, 1, 0, 1, 1])
    tied = np.broadcast_to((group[low] == group[high])[:, None], capacities.shape)
    u = total_variation_prox(g, capacities, tied)
    for members in (np.flatnonzero(group == 0), np.flatnonzero(group == 1)):
        inside = np.isin(low, members) & np.isin(high, members)
        np.testing.assert_allclose(
            u[members], total_variation_prox(g[members], capacities[inside]), atol=1e-14
        )


def test_what_the_prox_takes_exceeds_no_cut_and_more_does():
    g, capacities = drawn(6, seed=3)
    left = total_variation_prox(g, capacities)
    taken = g - left
    excess, ratio = cut_excess(taken, capacities)
    assert excess.max() < 1e-14
    moved = np.abs(left).max(axis=0) > 1e-12
    assert moved.any()
    np.testing.assert_allclose(ratio[moved], 1, atol=1e-12)
    outside = taken + 0.01 * (g - taken)
    assert np.all(cut_excess(outside, capacities)[1][moved] > 1)


def test_cut_excess_equals_a_loop_over_sets():
    g, capacities = drawn(4, seed=4)
    low, high = np.triu_indices(4, 1)
    excess, ratio = cut_excess(g, capacities)
    for j in range(g.shape[1]):
        cuts = []
        for code in range(1, 15):
            inside = np.array([code >> c & 1 for c in range(4)], dtype=bool)
            cut = capacities[inside[low] != inside[high], j].sum()
            cuts.append((g[inside, j].sum(), cut))
        assert excess[j] == pytest.approx(max(sent - cut for sent, cut in cuts))
        assert ratio[j] == pytest.approx(max(sent / cut for sent, cut in cuts))


def test_a_closed_cut_sends_nothing():
    g = np.array([[1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_array_equal(cut_excess(g, np.zeros((1, 1)))[1], [np.inf, 0])
    np.testing.assert_array_equal(total_variation_prox(g, np.zeros((1, 1))), g)


def test_too_many_classes_are_refused():
    with pytest.raises(ValueError, match="n_classes must be at most 12"):
        class_sets(13)


def test_proximal_point_with_rates():
    rng = np.random.default_rng(2)
    g, rates = rng.standard_normal((4, 5)), rng.uniform(0.01, 1, (4, 5))
    capacities = rng.uniform(0, 1, (6, 1))
    u = cp.Variable((4, 5))
    low, high = np.triu_indices(4, 1)
    penalty = cp.sum(cp.multiply(capacities, cp.abs(u[low] - u[high])))
    squares = cp.sum(cp.multiply(0.5 / rates, cp.square(u - g)))
    cp.Problem(cp.Minimize(squares + penalty)).solve(solver="CLARABEL")
    np.testing.assert_allclose(total_variation_prox(g, capacities, rates=rates), u.value, atol=1e-6)
