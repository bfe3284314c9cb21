import pytest
import torch
from sklearn.datasets import load_digits

torch.set_num_threads(1)  # two test processes share two cores, and these networks are small


@pytest.fixture(scope="session")
def digits():
    """A small network trained on digits, in float64, with images in [0, 1] that it gets right, and
    their labels."""
    X, y = load_digits(return_X_y=True)
    X, y = torch.as_tensor(X / 16), torch.as_tensor(y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        ).double()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
        for _ in range(200):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(X[:1000]), y[:1000]).backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    right = (net(X[1000:]).argmax(1) == y[1000:]).nonzero()[:100, 0]
    return net, X[1000:][right].numpy(), y[1000:][right].numpy()
