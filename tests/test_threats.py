from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sklearn_robust.threats import LpBall, check_radius

EXPONENTS = [1, 1.5, 2, 3, np.inf]
W = np.array([0.5, -2.0, 0.0, 1.25])


def vertices(q, eps, d):
    """The extreme points of the ball, for q = 1 and inf."""
    if q == 1:
        return eps * np.concatenate([np.eye(d), -np.eye(d)])
    return eps * np.array(list(product([-1, 1], repeat=d)))


@pytest.mark.parametrize("q", [1, np.inf])
@pytest.mark.parametrize("w", [W, np.ones(4), -W], ids=["generic", "ties", "negative"])
def test_penalty_is_the_worst_vertex(q, w):
    ball = LpBall(q, 0.3)
    worst = (vertices(q, 0.3, 4) @ w).max()
    assert ball.penalty(w) == pytest.approx(worst, rel=1e-14)
    assert ball.perturbation(w) @ w == pytest.approx(worst, rel=1e-14)


def test_euclidean_penalty_is_analytic():
    assert LpBall(2, 0.3).penalty(W) == pytest.approx(0.3 * np.sqrt(0.25 + 4 + 1.5625))
    np.testing.assert_allclose(LpBall(2, 0.3).perturbation(W), 0.3 * W / np.linalg.norm(W))


def test_documented_perturbations():
    np.testing.assert_allclose(LpBall(np.inf, 0.1).perturbation(W), [0.1, -0.1, 0, 0.1])
    np.testing.assert_allclose(LpBall(1, 0.1).perturbation(W), [0, -0.1, 0, 0])
    np.testing.assert_allclose(
        LpBall(1, 0.1).perturbation(np.array([1.0, -1.0, 0.0])), [0.05, -0.05, 0]
    )


entries = st.floats(-100, 100).map(lambda v: 0.0 if abs(v) < 1e-6 else v)


radii = st.floats(0, 10).map(lambda v: 0.0 if v < 1e-200 else v)


@given(st.floats(1, 50) | st.just(np.inf), arrays(np.float64, 4, elements=entries), radii)
def test_perturbation_has_the_radius_and_attains_the_penalty(q, w, eps):
    assume(np.any(w))
    ball = LpBall(q, eps)
    delta = ball.perturbation(w)
    scale = eps if eps > 0 else 1.0  # numpy.linalg.norm raises to the power q, and would underflow
    assert np.linalg.norm(delta / scale, q) == pytest.approx(eps / scale, rel=1e-12)
    assert delta @ w == pytest.approx(ball.penalty(w), rel=1e-11, abs=1e-300)


@given(
    st.sampled_from(EXPONENTS),
    arrays(np.float64, 3, elements=entries),
    arrays(np.float64, 3, elements=entries),
)
def test_no_perturbation_of_the_ball_does_more_damage(q, w, direction):
    assume(np.any(direction))
    delta = 0.7 * direction / np.linalg.norm(direction, q)
    assert delta @ w <= LpBall(q, 0.7).penalty(w) * (1 + 1e-12)


@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("scale", [1e-150, 3.0, 1e150])
def test_perturbation_does_not_depend_on_the_scale_of_w(q, scale):
    ball = LpBall(q, 0.4)
    np.testing.assert_allclose(ball.perturbation(scale * W), ball.perturbation(W), rtol=1e-12)
    assert ball.penalty(scale * W) == pytest.approx(scale * ball.penalty(W), rel=1e-12)


@pytest.mark.parametrize("q", EXPONENTS)
def test_torch_equals_numpy(q):
    ball, coef = LpBall(q, 0.1), np.random.default_rng(0).standard_normal((2, 4))
    tensor = torch.from_numpy(coef)
    np.testing.assert_allclose(ball.penalty(tensor), ball.penalty(coef), rtol=1e-13)
    np.testing.assert_allclose(ball.perturbation(tensor), ball.perturbation(coef), rtol=1e-13)


def test_norms_are_dual():
    ball = LpBall(1, 0.1)
    assert (ball.norm.p, ball.dual_norm.p) == (1, np.inf)


@pytest.mark.parametrize("eps", [-0.1, np.nan, np.inf, "0.1", None, True, [0.1], 1j])
def test_invalid_radius_is_refused(eps):
    with pytest.raises(ValueError, match="eps must be a finite number >= 0"):
        LpBall(2, eps)


def test_invalid_radius_is_reported_under_the_users_name():
    with pytest.raises(
        ValueError, match=r"radius must be a finite number >= 0, got -1.*Use radius=0"
    ):
        check_radius(-1, "radius")


@pytest.mark.parametrize("eps", [0, 1, np.float32(0.5), np.int64(2)])
def test_any_real_radius_becomes_a_float(eps):
    assert type(LpBall(2, eps).eps) is float
    assert LpBall(2, eps).eps == float(eps)


@pytest.mark.parametrize("q", [0.5, np.nan, True, "2"])
def test_invalid_exponent_is_refused(q):
    with pytest.raises(ValueError, match="exponent"):
        LpBall(q, 0.1)


# --- a scale for each feature

SCALE = np.array([1.0, 0.5, 3.0, 0.0])


@pytest.mark.parametrize("q", EXPONENTS)
def test_a_scaled_ball_is_the_image_of_the_plain_one(q):
    ball, plain = LpBall(q, 0.3, SCALE), LpBall(q, 0.3)
    assert ball.penalty(W) == pytest.approx(plain.penalty(SCALE * W), rel=1e-14)
    np.testing.assert_allclose(
        ball.perturbation(W), SCALE * plain.perturbation(SCALE * W), rtol=1e-14
    )
    assert ball.norm.value(ball.perturbation(W)) == pytest.approx(0.3, rel=1e-13)
    assert ball.perturbation(W)[3] == 0
    assert ball.penalty(np.array([0.0, 0.0, 0.0, 5.0])) == 0
    np.testing.assert_array_equal(ball.reachable(W), [0.5, -2.0, 0.0, 0.0])


def test_one_scale_for_all_is_part_of_the_radius():
    same, factor = LpBall(2, 0.3, np.full(4, 2.0)).simplified()
    assert (same.eps, same.scale, factor) == (0.3, None, 2)
    assert LpBall(2, 0.3, np.zeros(4)).simplified()[1] == 0
    different = LpBall(2, 0.3, SCALE)
    assert different.simplified() == (different, 1)


@pytest.mark.parametrize(
    ("q", "scale", "w", "moved", "stopped"),
    [
        (np.inf, None, [1.0, -1.0, 0.0], [-2.0, -0.5, 2.0], [0.0, -0.5, 2.0]),
        (np.inf, [1.0, 1.0, 0.0], [1.0, -1.0, 1.0], [-2.0, -0.5, -2.0], [0.0, -0.5, -2.0]),
        # the second stops level with the largest
        (1, None, [2.0, -1.0, 0.5], [2.0, -4.0, 0.6], [2.0, -2.0, 0.6]),
        # the largest stops level with the second
        (1, None, [2.0, -1.5, 0.5], [1.0, -1.5, 0.5], [1.5, -1.5, 0.5]),
        (1, [1.0, 2.0, 0.0], [2.0, -0.5, 0.5], [2.0, -4.0, 9.0], [2.0, -1.0, 9.0]),
        (2, None, [2.0, -1.0, 0.5], [-2.0, -4.0, 0.6], [-2.0, -4.0, 0.6]),
    ],
)
def test_no_step_jumps_over_a_kink(q, scale, w, moved, stopped):
    ball = LpBall(q, 0.1, scale)
    np.testing.assert_allclose(ball.stop_at_kinks(np.array(w), np.array(moved)), stopped)


def test_scales_keep_their_kind():
    assert isinstance(LpBall(2, 0.3, [1, 0]).scale, np.ndarray)
    tensor = torch.tensor([1.0, 0.0], dtype=torch.float32)
    ball = LpBall(2, 0.3, tensor)
    assert ball.scale.dtype == torch.float32
    assert ball.penalty(torch.tensor([3.0, 4.0])) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ([1.0, -0.5], "got -0.5 for feature 1. Use 0 for a feature"),
        ([np.nan, 1.0], "got nan for feature 0"),
        ([1.0, np.inf], "got inf for feature 1"),
        (2.0, r"an array of shape \(\)"),
        (np.ones((2, 2)), r"an array of shape \(2, 2\)"),
        ([], r"an array of shape \(0,\)"),
        (["a", "b"], "a number >= 0 for each feature"),
    ],
)
def test_bad_scales_are_refused(scale, message):
    with pytest.raises(ValueError, match=f"scale must hold .*{message}"):
        LpBall(2, 0.1, scale)
