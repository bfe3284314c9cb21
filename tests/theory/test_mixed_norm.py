"""Both problems of Remark 4.4 share their solution, with the weight that the library names."""

import cvxpy as cp
import numpy as np
import pytest

from sklearn_robust import NotSeparableError, max_margin, min_norm_separator, mixed_norm_weight
from sklearn_robust.norms import LpNorm


def mixed_norm_value(X, y, *, p, q, weight, fit_intercept=False):
    w, b = cp.Variable(X.shape[1]), cp.Variable()
    margins = cp.multiply(y, X @ w + (b if fit_intercept else 0))
    problem = cp.Problem(
        cp.Minimize(cp.norm(w, p) + weight * cp.norm(w, LpNorm(q).dual.p)), [margins >= 1]
    )
    problem.solve(solver=cp.CLARABEL)
    return problem.value, w.value


@pytest.mark.slow
@pytest.mark.pairwise
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize(
    ("p", "q"),
    [(1, np.inf), (2, np.inf), (2, 1), (2, 2), (1, 2), (np.inf, np.inf), (np.inf, 2), (1, 1)],
)
def test_both_problems_share_their_solution(gaussian, p, q, share, fit_intercept):
    X, y = gaussian(20, 40)
    eps = share * max_margin(X, y, q=q, fit_intercept=fit_intercept).margin
    weight = mixed_norm_weight(X, y, p=p, q=q, eps=eps, fit_intercept=fit_intercept)
    value, mixed = mixed_norm_value(X, y, p=p, q=q, weight=weight, fit_intercept=fit_intercept)
    separator = min_norm_separator(X, y, p=p, q=q, eps=eps, fit_intercept=fit_intercept)
    # the value is 1 / gamma, and the robust separator attains it once it is scaled to clean margins
    # of 1
    robust = separator.coef / (1 + eps * LpNorm(q).dual.value(separator.coef))
    clean = (
        y
        * (X @ separator.coef + separator.intercept)
        / (1 + eps * LpNorm(q).dual.value(separator.coef))
    )
    attained = LpNorm(p).value(robust) + weight * LpNorm(q).dual.value(robust)
    assert clean.min() > 1 - 1e-6
    np.testing.assert_allclose(value, 1 / separator.margin, rtol=1e-6)
    np.testing.assert_allclose(attained, value, rtol=1e-6)
    if p == 2:  # the solution is unique
        np.testing.assert_allclose(mixed, robust, atol=1e-4 * np.abs(robust).max())
    # another weight has another value: the check can fail
    assert (
        abs(
            mixed_norm_value(X, y, p=p, q=q, weight=1.1 * weight, fit_intercept=fit_intercept)[0]
            * separator.margin
            - 1
        )
        > 1e-3
    )


def test_the_weight_grows_from_zero_without_bound(gaussian):
    X, y = gaussian(20, 40)
    eps_star = max_margin(X, y, q=np.inf).margin
    weights = [
        mixed_norm_weight(X, y, p=2, q=np.inf, eps=share * eps_star)
        for share in (0, 0.25, 0.5, 0.9, 0.999)
    ]
    assert weights[0] == 0
    assert np.all(np.diff(weights) > 0)
    assert weights[-1] > 100 * weights[1]
    with pytest.raises(NotSeparableError):
        mixed_norm_weight(X, y, p=2, q=np.inf, eps=1.01 * eps_star)


def test_several_classes_are_refused():
    with pytest.raises(ValueError, match="y must hold two classes, got 3: no mixed norm"):
        mixed_norm_weight(np.eye(3), [0, 1, 2], p=2, q=2, eps=0.1)
