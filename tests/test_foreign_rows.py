"""Rows written here, products that are never formed and a file, go through whatever takes rows."""

import re
from pathlib import Path

import numpy as np
import pytest

import sklearn_robust
from sklearn_robust import RobustLinearClassifier, min_norm_separator
from sklearn_robust.certificates import certify, proves_not_separable
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.rows import (
    GramRows,
    as_rows,
    largest_entry,
    mean_square,
    on_columns,
    require_array,
    squared_norm_bound,
)
from sklearn_robust.separators.min_norm import solve_separator
from sklearn_robust.solvers import (
    accelerated_margin,
    diagonal_descent,
    minimise_robust_risk,
    robust_risk,
    steepest_descent,
)

EPS = 1 / 16  # the same in single precision

each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_q = pytest.mark.parametrize("q", [1, 2, np.inf])
each_intercept = pytest.mark.parametrize(
    "fit_intercept", [True, False], ids=["intercept", "no intercept"]
)


class Kronecker:
    """All pairs of a row of A and a row of B: the rows of A (x) B, n_A n_B by d_A d_B."""

    dtype = np.dtype(np.float64)

    def __init__(self, A, B):
        self.A, self.B = A, B
        self.shape = (len(A) * len(B), A.shape[1] * B.shape[1])
        self.n_terms = A.shape[1] + B.shape[1]

    def scores(self, coef):
        return self._times(self.A, coef, self.B)

    def weighted_sum(self, weights):
        return self._times(self.A.T, weights, self.B.T)

    def score_sizes(self, coef):
        return self._times(abs(self.A), abs(coef), abs(self.B))

    def sum_sizes(self, weights):
        return self._times(abs(self.A.T), abs(weights), abs(self.B.T))

    def _times(self, left, vectors, right):
        """(left (x) right) v for each row v of the vectors."""
        matrices = vectors.reshape(len(vectors), left.shape[1], right.shape[1])
        return (left @ matrices @ right.T).reshape(len(vectors), -1)

    def formed(self):
        return np.kron(self.A, self.B)


class LowRank:
    """X = A B with few columns of A."""

    dtype = np.dtype(np.float64)

    def __init__(self, A, B):
        self.A, self.B = A, B
        self.shape = (len(A), B.shape[1])
        self.n_terms = sum(B.shape)
        self.largest = np.linalg.norm(A, axis=1).max() * np.linalg.norm(B, axis=0).max()

    def scores(self, coef):
        return (coef @ self.B.T) @ self.A.T

    def weighted_sum(self, weights):
        return (weights @ self.A) @ self.B

    def score_sizes(self, coef):
        return (abs(coef) @ abs(self.B).T) @ abs(self.A).T

    def sum_sizes(self, weights):
        stages = 1 + self.A.shape[1] / len(self.A)
        return stages * (abs(weights) @ abs(self.A)) @ abs(self.B)

    def formed(self):
        return self.A @ self.B


class WithMoments(LowRank):
    """The same with weighted second moments, about zero."""

    def mean(self):
        return np.zeros(self.shape[1])

    def most_gram_columns(self):
        return None

    def scores_on(self, columns, coef):
        return self.scores(coef[None])[0]

    def weighted_gram(self, columns, centre, weights, labels, *, exact):
        B = self.B[:, columns]
        gram = B.T @ ((self.A.T * weights) @ self.A) @ B
        return gram, (weights @ self.A) @ B, ((weights * labels) @ self.A) @ B


class File:
    """An array in a .npy file in single precision, of which a few rows are in memory at a time."""

    def __init__(self, path, length):
        self.path, self.length = path, length
        mapped = np.load(path, mmap_mode="r")
        self.shape, self.dtype, self.offset = mapped.shape, mapped.dtype, mapped.offset
        self.n_terms = mapped.shape[1]

    def blocks(self):
        n, d = self.shape
        for start in range(0, n, self.length):
            rows = min(self.length, n - start)
            skipped = self.offset + start * d * self.dtype.itemsize
            block = np.fromfile(self.path, self.dtype, rows * d, offset=skipped).reshape(rows, d)
            yield slice(start, start + rows), block.astype(np.float64)

    def scores(self, coef):
        return np.concatenate([coef @ block.T for _, block in self.blocks()], axis=1)

    def weighted_sum(self, weights):
        return sum(weights[:, at] @ block for at, block in self.blocks())

    def score_sizes(self, coef):
        return np.concatenate([abs(coef) @ abs(block).T for _, block in self.blocks()], axis=1)

    def sum_sizes(self, weights):
        return sum(abs(weights)[:, at] @ abs(block) for at, block in self.blocks())

    def formed(self):
        return np.load(self.path)


def kronecker(tmp_path):
    rng = np.random.default_rng(0)
    return Kronecker(rng.standard_normal((12, 2)), rng.standard_normal((10, 4)))


def low_rank(tmp_path):
    rng = np.random.default_rng(1)
    return LowRank(rng.standard_normal((40, 3)) + 0.3, rng.standard_normal((3, 8)))


def with_moments(tmp_path):
    rows = low_rank(tmp_path)
    return WithMoments(rows.A, rows.B)


def in_a_file(tmp_path):
    X = np.random.default_rng(2).standard_normal((50, 6))
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    return File(tmp_path / "X.npy", length=17)


each_rows = pytest.mark.parametrize("make", [kronecker, low_rank, in_a_file])


def labels(X, *, noise, seed=3):
    """Those of a linear teacher, with noise in units of the scores."""
    rng = np.random.default_rng(seed)
    scores = X @ rng.standard_normal(X.shape[1])
    scores = scores + noise * scores.std() * rng.standard_normal(len(X))
    return np.where(scores > 0, 1.0, -1.0)


def problems(make, tmp_path, *, noise, q, eps, fit_intercept=True, **keywords):
    """The problem on foreign rows, and on their array in float64."""
    rows = make(tmp_path)
    X = rows.formed()
    y = labels(X, noise=noise)
    options = {"q": q, "eps": eps, "fit_intercept": fit_intercept, **keywords}
    foreign = RobustProblem.from_data(rows, y, **options)
    return foreign, RobustProblem.from_data(X.astype(np.float64), y, **options)


@each_rows
def test_the_rows_written_here_keep_the_protocol(make, tmp_path):
    rows = make(tmp_path)
    X, rng = rows.formed().astype(np.float64), np.random.default_rng(4)
    coef, weights = rng.standard_normal((2, X.shape[1])), rng.dirichlet(np.ones(len(X)), 2)
    assert as_rows(rows) is rows
    assert not isinstance(rows, GramRows)
    assert rows.shape == X.shape
    np.testing.assert_allclose(rows.scores(coef), coef @ X.T, atol=1e-12)
    np.testing.assert_allclose(rows.weighted_sum(weights), weights @ X, atol=1e-12)
    assert np.all(rows.score_sizes(coef) >= abs(coef) @ abs(X).T * (1 - 1e-12))
    assert np.all(rows.sum_sizes(weights) >= weights @ abs(X) * (1 - 1e-12))
    assert largest_entry(rows) >= abs(X).max()
    assert squared_norm_bound(rows) >= np.linalg.norm(X, 2) ** 2
    few = on_columns(rows, np.array([1, 4]))
    np.testing.assert_allclose(few.scores(coef[:, :2]), coef[:, :2] @ X[:, [1, 4]].T, atol=1e-12)
    np.testing.assert_allclose(few.weighted_sum(weights), weights @ X[:, [1, 4]], atol=1e-12)
    assert np.all(few.score_sizes(coef[:, :2]) >= abs(coef[:, :2]) @ abs(X[:, [1, 4]]).T - 1e-12)
    assert np.all(few.sum_sizes(weights) >= weights @ abs(X[:, [1, 4]]) - 1e-12)
    assert few.shape == (len(X), 2)


@pytest.mark.parametrize("centred", [True, False])
@each_rows
def test_the_mean_square_is_estimated_within_a_factor_of_four(make, tmp_path, centred):
    rows = make(tmp_path)
    if make is low_rank:  # far from zero
        rows = LowRank(rows.A + 5, rows.B)
    expected = mean_square(as_rows(rows.formed().astype(np.float64)), centred=centred)
    assert 0.25 < mean_square(rows, centred=centred) / expected < 4


@pytest.mark.pairwise
@each_loss
@each_q
@each_intercept
@each_rows
def test_minimiser_of_the_risk(make, tmp_path, loss, q, fit_intercept):
    foreign, dense = problems(make, tmp_path, noise=1.5, q=q, eps=EPS, fit_intercept=fit_intercept)
    solution = minimise_robust_risk(foreign, loss, LpNorm(2), tol=1e-5)
    expected = minimise_robust_risk(dense, loss, LpNorm(2), tol=1e-10)
    assert solution.separable == expected.separable == [False]
    assert solution.converged[0]
    # the certificate of the rows holds for the array too
    assert proves_not_separable(dense, solution.weights)[0]
    at = dense.evaluate(loss, solution.coef.astype(np.float64))
    bound = loss.log_risk_bound(solution.weights, dense.log_weight)
    # a gap of tol, and the rounding of the coefficients to the type of the rows
    assert solution.gap[0] == pytest.approx(-np.expm1(bound - at.log_risk)[0], abs=1e-6)
    assert expected.log_risk[0] - 1e-9 <= at.log_risk[0] <= expected.log_risk[0] + 1.1e-5


@pytest.mark.pairwise
@each_loss
@each_q
@each_intercept
def test_rows_with_moments_go_through_newtons_method(tmp_path, monkeypatch, loss, q, fit_intercept):
    monkeypatch.setattr(
        robust_risk, "lbfgs", lambda *args, **kwargs: pytest.fail("the fallback was called")
    )
    foreign, dense = problems(
        with_moments, tmp_path, noise=1.5, q=q, eps=EPS, fit_intercept=fit_intercept
    )
    solution = minimise_robust_risk(foreign, loss, LpNorm(2), tol=1e-9)
    expected = minimise_robust_risk(dense, loss, LpNorm(2), tol=1e-9)
    assert solution.converged[0]
    assert solution.log_risk[0] == pytest.approx(expected.log_risk[0], abs=1e-9)


@each_q
@pytest.mark.parametrize("make", [kronecker, in_a_file])
def test_minimiser_of_the_risk_with_scales(make, tmp_path, q):
    scale = np.array([0.0, 1.0, 2.0, 0.5, 0.0, 1.0, 1.0, 1.0])[: make(tmp_path).shape[1]]
    foreign, dense = problems(make, tmp_path, noise=1.5, q=q, eps=EPS, scale=scale)
    loss = LOSSES["logistic"]
    solution = minimise_robust_risk(foreign, loss, LpNorm(2), tol=1e-5)
    expected = minimise_robust_risk(dense, loss, LpNorm(2), tol=1e-10)
    assert solution.converged[0]
    assert solution.log_risk[0] == pytest.approx(expected.log_risk[0], abs=1.1e-5)


@each_q
@pytest.mark.parametrize("eps", [1e3])
@pytest.mark.parametrize("make", [low_rank])
def test_a_large_radius_gives_the_minimiser_over_untouched_features(make, tmp_path, q, eps):
    """It is where the norm has no gradient, and needs columns of the rows alone."""
    scale = np.array([0.0, 1, 1, 0, 1, 1, 1, 1])
    foreign, dense = problems(make, tmp_path, noise=1.5, q=q, eps=eps, scale=scale)
    solution = minimise_robust_risk(foreign, LOSSES["logistic"], LpNorm(2), tol=1e-5)
    expected = minimise_robust_risk(dense, LOSSES["logistic"], LpNorm(2), tol=1e-10)
    assert solution.log_risk[0] == pytest.approx(expected.log_risk[0], abs=1.1e-5)
    np.testing.assert_array_equal(solution.coef[0, scale > 0], 0)


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize(
    ("loss", "fit_intercept"), [(LOSSES["exponential"], True), (LOSSES["logistic"], False)]
)
@each_q
@pytest.mark.parametrize("p", [1, 2, np.inf])
@each_rows
def test_path_of_steepest_descent(make, tmp_path, loss, p, q, fit_intercept):
    foreign, dense = problems(
        make, tmp_path, noise=0, q=q, eps=EPS / 64, fit_intercept=fit_intercept
    )
    options = {"loss_tol": 0, "max_iter": 40, "step_size": 0.05, "record_every": 10}
    solution = steepest_descent(foreign, loss, LpNorm(p), **options)
    expected = steepest_descent(dense, loss, LpNorm(p), **options)
    tolerance = 1e-4 if foreign.X.dtype == np.float32 else 1e-9
    np.testing.assert_allclose(
        solution.coef, expected.coef, atol=tolerance * abs(expected.coef).max()
    )
    np.testing.assert_allclose(
        solution.history["log_risk"], expected.history["log_risk"], atol=10 * tolerance
    )
    np.testing.assert_allclose(solution.margin_bound, expected.margin_bound, rtol=10 * tolerance)


@pytest.mark.slow
@pytest.mark.pairwise
@each_q
@each_intercept
@each_rows
def test_a_path_ends_with_a_certificate_that_holds_for_the_array(make, tmp_path, q, fit_intercept):
    foreign, dense = problems(
        make, tmp_path, noise=0, q=q, eps=EPS / 64, fit_intercept=fit_intercept
    )
    solution = steepest_descent(foreign, LOSSES["exponential"], LpNorm(2), loss_tol=1)
    assert solution.separable == [True]
    coef, intercept = (x.astype(np.float64) for x in (solution.coef, solution.intercept))
    proven = certify(dense, LpNorm(2), coef, solution.weights.astype(np.float64), intercept)
    assert solution.margin[0] <= proven.margin[0] * (1 + 1e-4)
    limit = solve_separator(dense, LpNorm(2))
    assert solution.margin[0] <= limit.margin_bound
    assert solution.margin_bound[0] >= limit.margin * (1 - 1e-12)


@each_rows
def test_a_path_proves_that_no_predictor_separates(make, tmp_path):
    foreign, dense = problems(make, tmp_path, noise=1.5, q=np.inf, eps=EPS)
    solution = steepest_descent(foreign, LOSSES["logistic"], LpNorm(2), tol=1e-3, loss_tol=0)
    assert solution.separable == [False]
    assert solution.gap[0] <= 1e-3
    assert proves_not_separable(dense, solution.weights.astype(np.float64))[0] or (
        foreign.X.dtype == np.float32
    )


@pytest.mark.slow
@pytest.mark.parametrize("solve", [accelerated_margin, diagonal_descent])
@pytest.mark.parametrize("make", [kronecker, low_rank])
def test_the_other_solvers(make, tmp_path, solve):
    foreign, dense = problems(make, tmp_path, noise=0, q=np.inf, eps=EPS / 64, fit_intercept=False)
    arguments = (LOSSES["exponential"],) + ((LpNorm(2),) if solve is accelerated_margin else ())
    solution, expected = (solve(one, *arguments, max_iter=500) for one in (foreign, dense))
    assert solution.separable == expected.separable == [True]
    assert solution.margin[0] <= expected.margin_bound[0] * (1 + 1e-9)
    assert expected.margin[0] <= solution.margin_bound[0] * (1 + 1e-9)


@each_rows
def test_several_problems_on_the_same_rows(make, tmp_path):
    rows = make(tmp_path)
    X = rows.formed()
    y = np.stack([labels(X, noise=1.5), labels(X, noise=1.5, seed=5)])
    problem = RobustProblem.from_data(rows, y, q=2, eps=0, fit_intercept=True)
    together = minimise_robust_risk(
        problem.at_radii([0.05, 0.1]), LOSSES["logistic"], LpNorm(2), tol=1e-5
    )
    assert together.converged.all()
    assert together.coef.shape == (4, X.shape[1])


def test_separators_refuse_rows_without_columns_in_a_sentence(tmp_path):
    foreign, _ = problems(kronecker, tmp_path, noise=0, q=2, eps=EPS / 64)
    with pytest.raises(
        ValueError, match=r"needs X as a NumPy or scipy\.sparse array, got Kronecker"
    ):
        solve_separator(foreign, LpNorm(2))
    with pytest.raises(
        ValueError, match=r"needs X as a NumPy or scipy\.sparse array, got Kronecker"
    ):
        foreign.as_float64()
    with pytest.raises(ValueError, match="use minimise_robust_risk or steepest_descent"):
        require_array(foreign.rows, "The exact separator")
    takes_arrays = [
        lambda: min_norm_separator(foreign.X, foreign.y[0], p=2, q=2, eps=0.1),
        lambda: RobustLinearClassifier().fit(foreign.X, foreign.y[0]),
    ]
    for call in takes_arrays:
        with pytest.raises(
            TypeError, match=r"X must be an array or a frame in memory, got a .*Kron"
        ):
            call()


def test_what_is_no_rows_is_refused_by_what_it_lacks():
    class Half:
        shape, dtype = (2, 1), np.dtype(float)

        def scores(self, coef):
            return coef

    with pytest.raises(TypeError, match="got Half without n_terms, weighted_sum, score_sizes"):
        RobustProblem.from_data(Half(), np.array([1.0, -1.0]), q=2, eps=0.1, fit_intercept=False)


def test_numbers_out_of_range_are_refused_by_the_bound_on_them():
    rows = Kronecker(np.full((2, 1), 1e100), np.full((1, 2), 1e80))
    with pytest.raises(ValueError, match="X must hold numbers whose squares float64 can hold"):
        RobustProblem.from_data(rows, np.array([1.0, -1.0]), q=2, eps=0.1, fit_intercept=False)


def test_the_library_reads_rows_in_one_place():
    """No part of the problem or of the minimiser of the risk asks what kind of array X is."""
    package = Path(sklearn_robust.__file__).parent
    for name in (
        "problems.py",
        "solvers/robust_risk.py",
        *(f"solvers/_risk_{part}.py" for part in ("newton", "lbfgs", "model")),
    ):
        assert not re.search("issparse|is_torch", (package / name).read_text()), name
