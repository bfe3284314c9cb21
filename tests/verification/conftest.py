import numpy as np
import pytest
import torch

from sklearn_robust.norms import LpNorm


def margins_of(network, x, y):
    """min over k != y of f_y - f_k, or +-f, of inputs (n, m, *shape) and labels (n,)."""
    scores = network(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    y = torch.as_tensor(y)
    if scores.shape[-1] == 1:
        return (2 * y - 1).unsqueeze(1) * scores[..., 0]
    true = scores.gather(2, y.view(-1, 1, 1).expand(-1, x.shape[1], 1))
    rivals = torch.nn.functional.one_hot(y, scores.shape[-1]).bool().unsqueeze(1)
    return (true - scores.masked_fill(rivals, -torch.inf)).amin(dim=2)


@pytest.fixture(scope="session")
def lowest_margin():
    """A function that searches the threat for a small margin: random points, extreme points and
    projected descent."""

    def search(network, X, y, *, eps, q, clip=None, seed=0, n_steps=20, n_points=40):
        norm, rng = LpNorm(q), np.random.default_rng(seed)
        x = torch.as_tensor(np.asarray(X), dtype=torch.float64)
        flat = x.flatten(1)
        n, d = flat.shape
        noise = torch.as_tensor(rng.standard_normal((n, n_points, d)))
        radii = torch.as_tensor(rng.choice([1.0, 1.0, 0.5], size=(n, n_points, 1)))
        corners = norm.steepest_direction(noise)  # extreme points of the ball
        moves = radii * torch.where(radii < 1, noise / norm.value(noise)[..., None], corners)
        moves[:, 0] = 0
        network = network.double().eval()

        def in_threat(moves):
            points = flat.unsqueeze(1) + moves
            # towards x: this stays in the ball
            return points if clip is None else points.clamp(*clip)

        points = in_threat(eps * moves)
        lowest = torch.full((n,), torch.inf, dtype=torch.float64)
        for step in range(n_steps + 1):
            points = points.detach().requires_grad_(True)
            margins = margins_of(network, points.view(n, n_points, *x.shape[1:]), y)
            lowest = torch.minimum(lowest, margins.detach().amin(dim=1))
            (gradient,) = torch.autograd.grad(margins.sum(), points)
            size = eps * (1.0 if step == 0 else 0.5 * (1 - step / (n_steps + 1)))
            moves = points.detach() - size * norm.steepest_direction(gradient) - flat.unsqueeze(1)
            points = in_threat(norm.project(moves, eps) if eps > 0 else 0 * moves)
        return lowest.numpy()

    return search
