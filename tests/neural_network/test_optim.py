"""SteepestDescent: the direction, against its definition; the step, against torch's SGD; the
contract of an optimiser."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import optimize

from sklearn_robust.neural_network import SteepestDescent
from sklearn_robust.norms import LpNorm

EXPONENTS = [1, 1.5, 2, 3, math.inf]


def parameters(seed=0, shapes=((3, 4), (5,), (2, 1, 2))):
    generator = torch.Generator().manual_seed(seed)
    made = [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for shape in shapes
    ]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return made


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors]).numpy().copy()


def step_of(p, params=None, **options):
    params = parameters() if params is None else params
    before = flat(params)
    SteepestDescent(params, lr=0.1, p=p, **options).step()
    return (before - flat(params)) / 0.1, flat([q.grad for q in params])


@pytest.mark.parametrize("p", EXPONENTS)
def test_direction_is_the_steepest_over_all_parameters(p):
    direction, gradient = step_of(p, normalized=True)
    norm = LpNorm(p)
    assert norm.value(direction) == pytest.approx(1)
    # Hölder's bound, which no unit vector exceeds
    assert direction @ gradient == pytest.approx(norm.dual.value(gradient))


def test_direction_against_a_solver():
    direction, gradient = step_of(3, normalized=True)
    ball = optimize.NonlinearConstraint(lambda u: np.sum(np.abs(u) ** 3), 0, 1)
    found = optimize.minimize(
        lambda u: -u @ gradient,
        0.1 * gradient,
        jac=lambda u: -gradient,
        constraints=[ball],
        method="SLSQP",
    )
    assert direction @ gradient == pytest.approx(-found.fun, rel=1e-5)


@pytest.mark.parametrize("p", EXPONENTS)
def test_unnormalised_steps_scale_with_the_dual_norm(p):
    unit, gradient = step_of(p, normalized=True)
    np.testing.assert_allclose(step_of(p)[0], unit * LpNorm(p).dual.value(gradient))


def test_one_coordinate_of_all_tensors_moves_for_p_1():
    direction, gradient = step_of(1)
    assert np.flatnonzero(direction).tolist() == [np.abs(gradient).argmax()]


@pytest.mark.parametrize("p", EXPONENTS)
def test_per_tensor_norms(p):
    params = parameters()
    direction, _ = step_of(p, params, normalized=True, norm_over="tensor")
    for part, parameter in zip(np.split(direction, [12, 17]), params, strict=True):
        np.testing.assert_allclose(
            part, LpNorm(p).steepest_direction(parameter.grad.flatten().numpy())
        )


@pytest.mark.parametrize("p", [*EXPONENTS, "spectral"])
def test_steps_of_a_root_mean_square(p):
    direction, _ = step_of(p, normalized="rms")
    assert np.sqrt(np.mean(direction**2)) == pytest.approx(1)


@pytest.mark.parametrize("norm_over", ["all", "tensor"])
def test_spectral_direction_against_the_singular_value_decomposition(norm_over):
    params = parameters(shapes=((6, 4), (3, 5), (5,), (2, 1, 2)))
    params[0].grad[:, 0] = params[0].grad[:, 1]  # of rank 3
    unit, gradient = step_of("spectral", params, normalized=True, norm_over=norm_over)
    step, _ = step_of("spectral", params, norm_over=norm_over)
    sizes, directions = [], []
    for parameter in params:
        matrix = parameter.grad.numpy().reshape(len(parameter), -1)
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        kept = s > 1e-10
        directions.append(((u[:, kept]) @ v[kept]).ravel())
        sizes.append(s.sum())
    ends = np.cumsum([d.size for d in directions])[:-1]
    np.testing.assert_allclose(unit, np.concatenate(directions), atol=1e-7)
    for part, direction, size in zip(np.split(step, ends), directions, sizes, strict=True):
        dual = sum(sizes) if norm_over == "all" else size
        np.testing.assert_allclose(part, dual * direction, atol=1e-6)
    assert unit @ gradient == pytest.approx(sum(sizes))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_newton_schulz_steps_are_those_of_muon(shape, momentum):
    (ours,), (theirs,) = parameters(shapes=(shape,)), parameters(shapes=(shape,))
    one = SteepestDescent(
        [ours], lr=0.02, p="spectral", normalized=True, momentum=momentum, newton_schulz_steps=5
    )
    two = torch.optim.Muon([theirs], lr=0.02, weight_decay=0, momentum=momentum, nesterov=False)
    # Muon multiplies the rate by a factor for the shape
    two.param_groups[0]["lr"] /= math.sqrt(max(1, shape[0] / shape[1]))
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        gradient = torch.randn(shape, generator=generator, dtype=torch.float64)
        ours.grad, theirs.grad = gradient, gradient.clone()
        one.step()
        two.step()
    # bfloat16 rounds momentum that is scaled otherwise to other numbers
    tolerance = 1e-12 if momentum == 0 else 0.02 * 5 * 2**-6
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_newton_schulz_steps_are_for_the_spectral_norm():
    (w,) = parameters(shapes=((3, 2),))
    with pytest.raises(ValueError, match=r'newton_schulz_steps=5 .* for p="spectral", got p=2'):
        SteepestDescent([w], lr=0.1, newton_schulz_steps=5)


def descend(optimizer, params, steps=20):
    target = [torch.linspace(-1, 1, q.numel(), dtype=q.dtype).view_as(q) for q in params]
    for _ in range(steps):
        optimizer.zero_grad()
        sum(
            ((q - t) ** 4).sum() + (q**2).sum() for q, t in zip(params, target, strict=True)
        ).backward()
        optimizer.step()
    return flat(params)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equals_sgd_for_p_2(momentum):
    ours, theirs = parameters(), parameters()
    one = descend(SteepestDescent(ours, lr=0.01, momentum=momentum), ours)
    two = descend(torch.optim.SGD(theirs, lr=0.01, momentum=momentum), theirs)
    np.testing.assert_allclose(one, two, rtol=1e-12)


def test_groups_have_their_own_rates_and_share_one_norm():
    first, second = parameters(shapes=((3,), (4,)))
    before = first.detach().clone(), second.detach().clone()
    SteepestDescent(
        [{"params": [first]}, {"params": [second], "lr": 0.5}], lr=0.1, p=3, normalized=True
    ).step()
    gradient = flat([first.grad, second.grad])
    direction = LpNorm(3).steepest_direction(gradient)
    moved = np.concatenate(
        [(before[0] - first).detach() / 0.1, (before[1] - second).detach() / 0.5]
    )
    np.testing.assert_allclose(moved, direction)


def test_schedulers_set_the_rate():
    (w,) = parameters(shapes=((3,),))
    optimizer = SteepestDescent([w], lr=1.0, p=math.inf, normalized=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    sizes = []
    for _ in range(3):
        before = w.detach().clone()
        optimizer.step()
        schedule.step()
        sizes.append(float((before - w).detach().abs().max()))
    assert sizes == pytest.approx([1, 0.5, 0.25])


@pytest.mark.parametrize("p", [2, math.inf])
def test_state_dict_resumes(p):
    straight = parameters()
    whole = SteepestDescent(straight, lr=0.01, p=p, momentum=0.9)
    descend(whole, straight, 5)
    resumed = [torch.nn.Parameter(q.detach().clone()) for q in straight]
    copied = SteepestDescent(resumed, lr=0.5, p=p)
    copied.load_state_dict(copy.deepcopy(whole.state_dict()))
    np.testing.assert_array_equal(descend(whole, straight, 5), descend(copied, resumed, 5))


def test_a_closure_is_called_once_with_gradients_on():
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = SteepestDescent([w], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).detach() == 5
    torch.testing.assert_close(w.detach(), torch.tensor([0.8, 1.6]))


def test_parameters_without_gradient_stay():
    moved, still = parameters(shapes=((2,), (2,)))
    still.grad = None
    before = still.detach().clone()
    SteepestDescent([moved, still], lr=0.1, p=math.inf).step()
    assert torch.equal(still, before)
    SteepestDescent([still], lr=0.1, p=1).step()  # nothing to do


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, "lr must be a finite number > 0, got 0"),
        ({"lr": 1, "p": 0.5}, r"p must be a real number in \[1, inf\]"),
        ({"lr": 1, "momentum": 1.0}, r"momentum must be a number in \[0, 1\), got 1.0"),
        ({"lr": 1, "norm_over": "layer"}, "norm_over must be one of"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SteepestDescent(parameters(), **options)


def test_groups_may_not_set_what_holds_for_all():
    with pytest.raises(ValueError, match=r"\['p'\], which hold for all groups"):
        SteepestDescent([{"params": parameters(), "p": 1}], lr=0.1)


def test_sparse_gradients_are_refused():
    table = torch.nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="dense gradients"):
        SteepestDescent(table.parameters(), lr=0.1).step()
