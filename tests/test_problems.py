import numpy as np
import pytest
import torch
from scipy import sparse

from sklearn_robust.losses import LOSSES
from sklearn_robust.problems import RobustProblem
from sklearn_robust.threats import LpBall

each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def data(k=3, n=7, d=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * (rng.uniform(size=(n, d)) < 0.7)
    y = np.where(rng.uniform(size=(k, n)) < 0.5, 1.0, -1.0)
    y[:, 0], y[:, 1] = 1.0, -1.0
    return X, y, rng.standard_normal((k, d)), rng.standard_normal(k), rng.dirichlet(np.ones(n), k)


def make(X, y, q=np.inf, eps=0.3, fit_intercept=True, **keywords):
    return RobustProblem.from_data(X, y, q=q, eps=eps, fit_intercept=fit_intercept, **keywords)


@pytest.mark.parametrize("q", [1, 1.5, 2, np.inf])
def test_margins_and_weighted_sum_equal_loops(q):
    X, y, coef, intercept, weights = data()
    problem = make(X, y, q=q)
    dual = {1: np.inf, 1.5: 3, 2: 2, np.inf: 1}[q]
    margins, sums, scores = (
        problem.margins(coef, intercept),
        problem.weighted_sum(weights),
        problem.signed_scores(coef),
    )
    for k in range(len(y)):
        for i in range(len(X)):
            score = y[k, i] * sum(X[i, j] * coef[k, j] for j in range(X.shape[1]))
            assert scores[k, i] == pytest.approx(score, abs=1e-14)
            robust = score + y[k, i] * intercept[k] - 0.3 * np.linalg.norm(coef[k], dual)
            assert margins[k, i] == pytest.approx(robust, abs=1e-13)
        np.testing.assert_allclose(
            sums[k], sum(weights[k, i] * y[k, i] * X[i] for i in range(len(X))), atol=1e-14
        )


@each_loss
@pytest.mark.parametrize("convert", [sparse.csr_array, sparse.csc_array, sparse.csr_matrix])
def test_sparse_equals_dense(loss, convert):
    X, y, coef, intercept, weights = data()
    dense, compressed = make(X, y), make(convert(X), y)
    for method, arguments in [
        ("margins", (coef, intercept)),
        ("weighted_sum", (weights,)),
        ("signed_scores", (coef,)),
    ]:
        ours = getattr(compressed, method)(*arguments)
        assert type(ours) is np.ndarray
        np.testing.assert_allclose(ours, getattr(dense, method)(*arguments), atol=1e-14)
    ours, expected = compressed.evaluate(loss, coef), dense.evaluate(loss, coef)
    np.testing.assert_allclose(ours.log_risk, expected.log_risk, atol=1e-13)


@each_loss
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_evaluate_is_the_loss_at_the_best_intercept(loss, fit_intercept):
    X, y, coef, _, _ = data()
    problem = make(X, y, fit_intercept=fit_intercept)
    now = problem.evaluate(loss, coef)
    np.testing.assert_allclose(now.margins, problem.margins(coef, now.intercept), atol=1e-13)
    log_risk, weights = loss.log_risk_and_weights(now.margins, problem.log_weight)
    np.testing.assert_array_equal(now.log_risk, log_risk)
    np.testing.assert_array_equal(now.weights, weights)
    if fit_intercept:
        np.testing.assert_allclose(np.sum(now.weights * y, axis=1), 0, atol=1e-12)
        for shift in (-0.1, 0.1):
            worse, _ = loss.log_risk_and_weights(
                problem.margins(coef, now.intercept + shift), problem.log_weight
            )
            assert np.all(worse > now.log_risk)
    else:
        np.testing.assert_array_equal(now.intercept, np.zeros(3))


@each_loss
@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-5, 0.1, 3.0])
def test_a_guess_of_the_intercept_does_not_show(loss, distance):
    X, y, coef, _, _ = data(k=1, n=30)
    problem = make(X, y)
    margins = problem.signed_scores(coef) - problem.penalty(coef)[:, None]
    exact = problem.evaluate_margins(loss, margins)
    guessed = problem.evaluate_margins(loss, margins, near=exact.intercept + distance)
    for name in ("intercept", "margins", "log_risk", "weights"):
        expected = getattr(exact, name)
        np.testing.assert_allclose(getattr(guessed, name), expected, rtol=1e-13, atol=1e-14)


@each_loss
def test_evaluate_uses_a_solvers_own_penalty(loss):
    X, y, coef, _, _ = data()
    problem = make(X, y, fit_intercept=False)
    expected = problem.evaluate(loss, coef).log_risk
    same = problem.evaluate(loss, coef, penalty=problem.penalty(coef))
    np.testing.assert_array_equal(same.log_risk, expected)
    larger = problem.evaluate(loss, coef, penalty=problem.penalty(coef) + 1)
    np.testing.assert_allclose(larger.margins, same.margins - 1, atol=1e-14)


def test_batched_equals_single():
    X, y, coef, intercept, weights = data()
    problem = make(X, y, sample_weight=np.arange(1.0, 8.0))
    for k in range(len(y)):
        one = problem.select(slice(k, k + 1))
        np.testing.assert_allclose(
            one.margins(coef[[k]], intercept[[k]]),
            problem.margins(coef, intercept)[[k]],
            atol=1e-14,
        )
        np.testing.assert_allclose(
            one.weighted_sum(weights[[k]]), problem.weighted_sum(weights)[[k]], atol=1e-14
        )
        np.testing.assert_array_equal(one.log_weight, problem.log_weight[[k]])
        assert one.log_total_weight == problem.log_total_weight[k]
    chosen = problem.select(np.array([2, 0]))
    np.testing.assert_array_equal(chosen.y, y[[2, 0]])
    assert (chosen.n_problems, chosen.n_features) == (2, 4)


def test_integer_weights_are_numbers():
    X, y, *_ = data()
    weight = np.array([1, 2, 0, 4, 1, 1, 1])
    np.testing.assert_array_equal(
        make(X, y, sample_weight=weight).log_weight,
        make(X, y, sample_weight=weight.astype(float)).log_weight,
    )


def test_sample_weights_are_normalised_and_zero_leaves_a_sample_out():
    X, y, coef, intercept, _ = data()
    weight = np.array([1.0, 2.0, 0.0, 4.0, 1.0, 1.0, 1.0])
    problem = make(X, y, sample_weight=weight)
    np.testing.assert_allclose(
        np.exp(problem.log_weight), np.broadcast_to(weight / 10, y.shape), rtol=1e-15
    )
    np.testing.assert_allclose(problem.log_total_weight, np.log([10, 10, 10]))
    margins = problem.margins(coef, intercept)
    assert np.all(np.isposinf(margins[:, 2]))
    kept = weight > 0
    without = make(X[kept], y[:, kept], sample_weight=weight[kept])
    np.testing.assert_allclose(margins[:, kept], without.margins(coef, intercept), atol=1e-14)
    for loss in LOSSES.values():
        np.testing.assert_allclose(
            problem.evaluate(loss, coef).log_risk, without.evaluate(loss, coef).log_risk, atol=1e-14
        )


def test_one_row_of_labels_is_one_problem():
    X, y, *_ = data()
    problem = make(X, y[0])
    assert problem.y.shape == problem.log_weight.shape == (1, 7)
    np.testing.assert_array_equal(problem.radius, [0.3])


def test_integer_labels_do_not_round_the_radius():
    X, y, coef, intercept, _ = data()
    problem = make(X, y.astype(int), eps=0.3)
    np.testing.assert_array_equal(
        problem.margins(coef, intercept), make(X, y, eps=0.3).margins(coef, intercept)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": np.array([0.0, 1, 1, 1, 1, 1, 1])}, r"y must hold 7 labels in \{-1, \+1\}"),
        ({"y": np.full(7, np.nan)}, "y must hold 7 labels"),
        ({"y": np.ones(5)}, "y must hold 7 labels"),
        ({"sample_weight": -np.ones(7)}, "sample_weight must hold finite numbers >= 0"),
        ({"sample_weight": np.zeros(7)}, "sample_weight must hold .* not all zero"),
        ({"sample_weight": np.full(7, np.nan)}, "sample_weight must hold"),
        ({"sample_weight": np.full(7, np.inf)}, "sample_weight must hold"),
        ({"eps": -1}, "eps must be"),
    ],
)
@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_bad_data_are_refused(arguments, message, convert):
    X, y, *_ = data()
    arguments = {"X": X, "y": y, **arguments}
    arguments = {
        name: value if name == "eps" else convert(value) for name, value in arguments.items()
    }
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_balanced_weights_are_feasible(fit_intercept):
    X, y, *_ = data()
    raw = np.random.default_rng(1).standard_normal(y.shape) + 0.5
    weights = make(X, y, fit_intercept=fit_intercept).balanced(raw)
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_array_equal(weights[raw < 0], 0)
    if fit_intercept:
        np.testing.assert_allclose(np.sum(weights * y, axis=1), 0, atol=1e-15)
        up = (raw > 0) & (y > 0)
        # scaled, not otherwise changed
        np.testing.assert_allclose((weights / raw)[0, up[0]], (weights / raw)[0, up[0]][0])
    else:
        positive = np.maximum(raw, 0)
        np.testing.assert_allclose(weights, positive / positive.sum(axis=1, keepdims=True))


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_equals_numpy(loss, dtype):
    X, y, coef, intercept, weights = data()
    expected = make(X, y)
    X, y, coef, intercept, weights = (
        torch.as_tensor(a, dtype=dtype) for a in (X, y, coef, intercept, weights)
    )
    problem = make(X, y)
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    )
    pairs = [
        (
            problem.margins(coef, intercept),
            expected.margins(coef.double().numpy(), intercept.double().numpy()),
        ),
        (problem.weighted_sum(weights), expected.weighted_sum(weights.double().numpy())),
        (problem.balanced(weights), expected.balanced(weights.double().numpy())),
        (
            problem.evaluate(loss, coef).log_risk,
            expected.evaluate(loss, coef.double().numpy()).log_risk,
        ),
    ]
    for ours, reference in pairs:
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.numpy(), reference, **tolerance)


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("size", [1e-145, 1.0, 1e145])
def test_standardised_rows_have_root_mean_square_one_and_are_centred_where_an_intercept_absorbs_it(
    fit_intercept, size
):
    X = size * np.random.default_rng(0).normal([5.0, 0.0, -100.0], size=(20, 3))
    y = np.where(np.arange(20) % 2, 1.0, -1.0)
    problem = RobustProblem.from_data(X, y, q=2, eps=0.3 * size, fit_intercept=fit_intercept)
    standardised, unit = problem.standardised()
    assert np.linalg.norm(standardised.X) == pytest.approx(np.sqrt(20))
    expected = X - X.mean(axis=0) if fit_intercept else X
    np.testing.assert_allclose(standardised.X * unit, expected, rtol=1e-12)
    np.testing.assert_allclose(standardised.radius * unit, 0.3 * size)
    if fit_intercept:
        np.testing.assert_allclose(standardised.X.mean(axis=0), 0, atol=1e-12)


def test_weights_beyond_the_range_of_their_sum_and_of_single_precision():
    X, y, *_ = data(k=1)
    expected = make(X, y)
    for weight in (1e-320, 1e-50, 1e50, 1e308):
        for dtype in (np.float64, np.float32):
            problem = make(X.astype(dtype), y.astype(dtype), sample_weight=np.full(len(X), weight))
            assert problem.log_weight.dtype == problem.log_total_weight.dtype == dtype
            np.testing.assert_allclose(problem.log_weight, expected.log_weight, rtol=1e-6)
            np.testing.assert_allclose(
                problem.log_total_weight, np.log(weight) + np.log(len(X)), rtol=1e-6
            )
    problem = make(X, y, sample_weight=np.where(y[0] > 0, 1e-200, 1e200))
    assert np.all(problem.log_weight > -np.inf)  # none is left out
    expected = np.where(y > 0, 0.5 / np.sum(y > 0), 0.5 / np.sum(y < 0))
    np.testing.assert_allclose(problem.class_shares(), expected, rtol=1e-12)


def test_equal_weights_take_the_memory_of_one():
    X, y, *_ = data(k=1)
    for weight in (None, np.full(len(X), 3.0)):
        log_weight = make(X, y, sample_weight=weight).log_weight
        np.testing.assert_allclose(log_weight, -np.log(len(X)), rtol=1e-14)
        assert log_weight.strides[1] == 0
        assert log_weight.base is None or log_weight.base.size == 1
    assert make(X, y, sample_weight=np.arange(1.0, len(X) + 1)).log_weight.strides[1] == 8


@pytest.mark.parametrize(
    ("dtype", "size"), [(np.float64, 1e155), (np.float64, 1e-200), (np.float32, 1e20)]
)
def test_numbers_whose_squares_leave_the_range_are_refused(dtype, size):
    X, y, *_ = data(k=1)
    for big in (dtype(size) * X.astype(dtype), sparse.csr_array(dtype(size) * X.astype(dtype))):
        with pytest.raises(
            ValueError, match=r"X must hold numbers whose squares .* Scale the features"
        ):
            make(big, y)
    assert make(0 * X, y).n_features == X.shape[1]


@pytest.mark.parametrize("q", [1, 1.5, 2, np.inf])
def test_each_problem_has_a_radius_of_its_own(q):
    X, y, eps = np.ones((2, 4)), np.array([1.0, -1.0]), [0.0, 0.1, 2.0]
    problem = RobustProblem.from_data(X, y, q=q, eps=1.0, fit_intercept=False).at_radii(eps)
    coef = np.random.default_rng(0).standard_normal((3, 4))
    for i, radius in enumerate(eps):
        ball = LpBall(q, radius)
        assert problem.penalty(coef)[i] == pytest.approx(ball.penalty(coef[i]), rel=1e-14)
        np.testing.assert_allclose(
            problem.perturbation(coef)[i], ball.perturbation(coef[i]), rtol=1e-14
        )
