import math

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from sklearn_robust import RobustLinearClassifier, max_margin, robust_linear_path, training_radii


def standardised(load):
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "q", "exponents"), [("exponential", 2, (1, math.inf)), ("logistic", math.inf, (2,))]
)
def test_each_cell_is_the_estimator_fitted_alone(loss, q, exponents):
    X, y = standardised(load_breast_cancer)
    eps = [0.4, 0.0]  # in any order; separable at 0
    options = {"loss": loss, "tol": 1e-10, "loss_tol": 0.5, "class_weight": "balanced"}
    path = robust_linear_path(X, y, p=exponents, q=q, eps=eps, **options)
    for i, p in enumerate(exponents):
        for j, radius in enumerate(eps):
            alone = RobustLinearClassifier(p, q, radius, **options).fit(X, y)
            size = np.abs(alone.coef_).max()
            np.testing.assert_allclose(path.coef[i, j], alone.coef_, atol=1e-5 * size)
            np.testing.assert_allclose(path.intercept[i, j], alone.intercept_, atol=1e-5 * size)
            np.testing.assert_allclose(path.margin[i, j], alone.margin_, rtol=1e-4, atol=1e-9)
            np.testing.assert_allclose(path.margin_bound[i, j], alone.margin_bound_, rtol=1e-4)
            assert path.separable[i, j, 0] == alone.separable_
            assert path.separable[i, j, 0] == (radius == 0)
            assert path.converged[i, j].all()
            assert (path.dual_gap[i, j] <= 1e-8).all()


@pytest.mark.parametrize("solver", ["steepest_descent", "exact"])
def test_several_classes_are_one_problem_in_each_cell(solver):
    X, y = (part[::3] for part in standardised(load_wine))
    p, eps = (2, "nuclear"), (0.6, 0.05)
    options = {"solver": solver, "loss_tol": 50.0}
    path = robust_linear_path(X, y, p=p, q=math.inf, eps=eps, **options)
    assert path.p.tolist() == [2, "nuclear"]
    assert path.coef.shape == (2, 2, 3, X.shape[1])
    assert path.intercept.shape == (2, 2, 3)
    assert path.margin.shape == path.dual_gap.shape == path.n_iter.shape == (2, 2, 1)
    assert path.separable.tolist() == [[[False], [True]]] * 2
    for i, j in np.ndindex(2, 2):
        alone = RobustLinearClassifier(p[i], eps=eps[j], **options).fit(X, y)
        np.testing.assert_array_equal(path.coef[i, j], alone.coef_)
        np.testing.assert_array_equal(path.intercept[i, j], alone.intercept_)
        assert path.margin[i, j] == alone.margin_
        assert path.margin_bound[i, j] == alone.margin_bound_
        assert path.dual_gap[i, j] == alone.dual_gap_
    # the minimiser of the risk does not depend on p, its margin does
    np.testing.assert_array_equal(path.coef[0, 0], path.coef[1, 0])
    size = np.linalg.norm(path.coef[0, 0]), np.linalg.norm(path.coef[0, 0], "nuc")
    np.testing.assert_allclose(path.margin[0, 0] * size[0], path.margin[1, 0] * size[1])
    assert not np.allclose(path.coef[0, 1], path.coef[1, 1], rtol=0.01)


@pytest.mark.parametrize("q", [2, math.inf])
def test_radii_of_several_classes(q):
    X, y = standardised(load_wine)
    radii = training_radii(X, y, q=q)
    limit = 5 * radii[0]
    np.testing.assert_allclose(radii[:4], limit * np.arange(1, 5) / 5)
    assert (np.diff(radii) > 0).all()
    path = robust_linear_path(
        X, y, p=2, q=q, eps=[0.99 * limit, 1.01 * limit], solver="exact", tol=1e-6
    )
    assert path.separable[0, :, 0].tolist() == [True, False]
    end = radii[-1] ** 2 / radii[-2]  # the next of a geometric sequence
    last = robust_linear_path(X, y, p=2, q=q, eps=[0.99 * end, 1.01 * end], tol=1e-7)
    size = np.abs(last.coef[0]).max(axis=(1, 2))
    assert size[1] < 1e-3 * size[0]


def test_radii_of_several_classes_leave_out_features_that_the_adversary_cannot_touch():
    X, y = standardised(load_iris)
    expected = training_radii(X[:, [0, 2]] / np.array([1.0, 0.5]), y)
    np.testing.assert_allclose(training_radii(X, y, scale=[1.0, 0.0, 0.5, 0.0]), expected)


def test_sparse_single_precision_and_scalars(gaussian):
    X, y = gaussian(60, 20, noise=0.3)
    X[np.abs(X) < 0.5] = 0
    dense = robust_linear_path(X, y, p=2, q=math.inf, eps=0.3)
    thin = robust_linear_path(sparse.csr_array(X), y, p=2, q=math.inf, eps=0.3)
    single = robust_linear_path(X.astype(np.float32), y, p=2, q=math.inf, eps=0.3)
    assert dense.coef.shape == (1, 1, 1, 20)
    assert single.coef.dtype == np.float32
    np.testing.assert_allclose(thin.coef, dense.coef, atol=1e-4)
    np.testing.assert_allclose(single.coef, dense.coef, atol=1e-3)


@pytest.mark.slow
def test_weights_are_those_of_repeated_samples(gaussian):
    X, y = gaussian(60, 5, noise=0.5)
    weight = np.arange(60) % 3
    weighted = robust_linear_path(
        X, y, p=(1, 2), q=2, eps=(0.1, 0.5), sample_weight=weight, tol=1e-10
    )
    repeated = robust_linear_path(
        X.repeat(weight, axis=0), y.repeat(weight), p=(1, 2), q=2, eps=(0.1, 0.5), tol=1e-10
    )
    np.testing.assert_allclose(weighted.coef, repeated.coef, atol=1e-5)


def test_messages(gaussian):
    X, y = gaussian(30, 40)
    with pytest.raises(
        ValueError, match=r"eps must be a number or a non-empty sequence of numbers, got \[\]"
    ):
        robust_linear_path(X, y, p=2, q=2, eps=[])
    with pytest.raises(ValueError, match="eps must be a finite number >= 0, got -1"):
        robust_linear_path(X, y, p=2, q=2, eps=[0, -1])
    with pytest.raises(ValueError, match=r"p must be a real number in \[1, inf\], got 0.5"):
        robust_linear_path(X, y, p=[2, 0.5], q=2, eps=0)
    with pytest.warns(
        ConvergenceWarning, match="robust_linear_path: 2 of 2 fits stopped before they reached tol"
    ):
        robust_linear_path(X, y, p=[1, 2], q=2, eps=0, solver="steepest_descent", max_iter=3)


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("q", [1, 2, math.inf])
@pytest.mark.parametrize("loss", ["exponential", "logistic"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_no_classifier_is_left_at_the_end_of_the_radii(q, loss, fit_intercept):
    X, y = standardised(load_breast_cancer)
    radii = training_radii(X, y, q=q, n_eps=100, fit_intercept=fit_intercept)
    assert len(radii) == 100
    assert (np.diff(radii) > 0).all()
    end = radii[-1] ** 2 / radii[-2]  # the next of a geometric sequence
    path = robust_linear_path(
        X, y, p=2, q=q, eps=[radii[-1], 1.001 * end], loss=loss, fit_intercept=fit_intercept
    )
    assert path.coef[0, 0].any()
    assert not path.coef[0, 1].any()


def test_radii_of_separable_data(gaussian):
    X, y = gaussian(30, 60)
    limit = max_margin(X, y, q=2, fit_intercept=True).margin
    radii = training_radii(X, y, q=2, n_eps=7)
    np.testing.assert_allclose(radii[:3], limit * np.array([0.25, 0.5, 0.75]))
    assert (radii[3:] > limit).all()
    assert (np.diff(radii) > 0).all()


def test_radii_where_means_coincide():
    X, y = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]), [0, 0, 1, 1]
    assert training_radii(X, y).tolist() == [0.0]


def test_radii_leave_out_samples_of_weight_zero(gaussian):
    X, y = gaussian(40, 5)
    weight = np.arange(40) % 2
    np.testing.assert_array_equal(
        training_radii(X, y, sample_weight=weight), training_radii(X[1::2], y[1::2])
    )


def test_the_representation_is_short(gaussian):
    X, y = gaussian(20, 40)
    path = robust_linear_path(X, y, p=[1, 2], q=np.inf, eps=[0.0, 0.05, 0.1])
    assert repr(path).startswith(
        "RobustLinearPath(2 p x 3 eps, 2 classes, 40 features, p [1., 2.], eps from 0 to 0.1, "
    )
    assert len(repr(path)) < 250


@pytest.mark.parametrize("q", [0.5, "2", True, 10**400])
def test_a_bad_exponent_has_the_name_that_the_caller_used(gaussian, q):
    X, y = gaussian(6, 8)
    with pytest.raises(ValueError, match=r"^q must be a real number in"):
        robust_linear_path(X, y, p=2, q=q, eps=0.1)
