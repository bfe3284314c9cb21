import gc
import importlib.util
import os
import sys
from collections import defaultdict
from itertools import combinations, pairwise
from pathlib import Path

# two test processes share two cores; must precede the imports of NumPy and torch
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# n_jobs=-1 stays in the test process: a pool of processes would outlive its test
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")

import numpy as np
import pytest
from hypothesis import settings

from sklearn_robust.callbacks import CallbackSupportMixin
from sklearn_robust.norms import LpNorm

settings.register_profile(
    "fixed", derandomize=True, deadline=None, print_blob=True, max_examples=50
)
# --hypothesis-profile=search
settings.register_profile("search", deadline=None, print_blob=True, max_examples=1000)
settings.load_profile("fixed")

if importlib.util.find_spec("sklearn.callback") is None:  # scikit-learn 1.8 has no callbacks

    def set_callbacks(*_):
        pytest.skip("callbacks need scikit-learn 1.9")

    CallbackSupportMixin.set_callbacks = set_callbacks

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Files whose examples take seconds; the other docstrings' examples are in the fast lane.
SLOW_EXAMPLES = ("_mlp.py", "_net.py", "_convergence.py")


def pytest_addoption(parser):
    parser.addoption(
        "--all-combinations",
        action="store_true",
        help="run every combination of the parameters of tests marked pairwise",
    )


def pytest_collection_modifyitems(config, items):
    """Mark the pages of the documentation and the long examples of docstrings as slow; keep of the
    tests marked pairwise what holds every pair of values. Pages come first: they are long, and at
    the end one process would wait for the other.
    """
    items.sort(key=lambda item: item.path.suffix != ".md")
    products = defaultdict(list)
    for item in items:
        page = item.path.suffix == ".md"
        if page or (isinstance(item, pytest.DoctestItem) and item.path.name in SLOW_EXAMPLES):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("pairwise"):
            products[item.path, item.originalname].append(item)
    if config.getoption("--all-combinations"):
        return
    left_out = {item for product in products.values() for item in uncovered(product)}
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Search for garbage among what tests make, not among modules and tests, which stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def uncovered(product):
    """Tests of one function that can be left out: the others hold every pair of lines of its
    parametrize decorators. Greedy: the next test is one with the most pairs that are not held."""
    pairs = {}
    for item in product:
        # by identity: the tests share the objects that are their values
        values = {name: id(value) for name, value in item.callspec.params.items()}
        lines = []
        for mark in item.iter_markers("parametrize"):
            names = [mark.args[0]] if isinstance(mark.args[0], str) else mark.args[0]
            lines.append(tuple((name, values.pop(name)) for name in names))
        lines += values.items()  # of parametrised fixtures
        pairs[item] = {*lines, *combinations(lines, 2)}
    held, left = set(), list(product)
    while left:
        best = max(left, key=lambda item: len(pairs[item] - held))
        if pairs[best] <= held:
            break
        held |= pairs[best]
        left.remove(best)
    return left


def pytest_report_teststatus(report):
    """Name a test when it fails, not at the end."""
    if report.failed:
        category = "failed" if report.when == "call" else "error"
        return category, f"\nFAILED {report.nodeid}\n", "FAILED"
    return None


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same state of the global generators, whatever ran before it."""
    np.random.seed(0)  # noqa: NPY002  what scikit-learn draws from where random_state is None
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(0)


@pytest.fixture(scope="session")
def threat_soak():
    """The random sets of benchmarks/threat_soak.py."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("threat_soak")
    sys.path.remove(str(BENCHMARKS))


class Parts:
    """The blocks of arrays, cut at these places or into these pieces; its readings are counted."""

    def __init__(self, *arrays, cuts=None, pieces=None):
        self.arrays, self.readings = arrays, 0
        if cuts is None:
            n = len(arrays[1])
            cuts = (n // 4, n // 2, 3 * n // 4)
        self.pieces = pieces or [slice(*ends) for ends in pairwise([0, *cuts, None])]

    def blocks(self):
        self.readings += 1
        for at in self.pieces:
            yield tuple(None if x is None else x[at] for x in self.arrays)


@pytest.fixture(scope="session")
def parts():
    """The class of arrays in blocks."""
    return Parts


@pytest.fixture(scope="session")
def summed():
    """A function that makes the problem of samples in blocks, of two or of several classes."""
    from sklearn_robust.rows import LocalReduction, Survey
    from sklearn_robust.summed import SummedJointProblem, SummedProblem
    from sklearn_robust.threats import LpBall

    def make(X, y, weight=None, *, q=np.inf, eps=0.05, scale=None, fit_intercept=True, **where):
        classes = np.unique(y)
        kind = SummedProblem if len(classes) == 2 else SummedJointProblem
        reduction = LocalReduction(Parts(X, y, weight, **where))
        return kind.of(
            reduction,
            reduction.total(Survey.of),
            LpBall(q, eps, scale),
            classes=classes,
            factors=np.ones(len(classes)),
            fit_intercept=fit_intercept,
        )

    return make


@pytest.fixture
def gaussian():
    """A function that draws Gaussian points labelled by a linear teacher, so that they are
    separable if n is small."""

    def draw(n, d, *, seed=0, noise=0.0):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((n, d))
        scores = X @ rng.standard_normal(d) + noise * rng.standard_normal(n)
        y = np.where(scores > np.median(scores), 1.0, -1.0)
        return X, y

    return draw


@pytest.fixture
def largest_margin():
    """A function that computes max over ||w||_p <= 1 of the robust margin, by a cone solver."""
    import cvxpy as cp  # here, since the process that hands out the tests reads this file too

    def solve(X, y, *, p, q, eps, fit_intercept=False):
        w, b = cp.Variable(X.shape[1]), cp.Variable()
        margins = cp.multiply(y, X @ w + (b if fit_intercept else 0)) - eps * cp.norm(
            w, LpNorm(q).dual.p
        )
        return cp.Problem(cp.Maximize(cp.min(margins)), [cp.norm(w, p) <= 1]).solve(
            solver=cp.CLARABEL
        )

    return solve


@pytest.fixture(scope="session")
def dask_client():
    """A client of the one local cluster of two worker processes for all tests that need one."""
    dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
    # workers, also those that follow a killed one, are forks of a process with the imports
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        context = distributed.utils.get_mp_context()
        room = "sklearn_robust.distributed"
        context.set_forkserver_preload(["dask.dataframe", "distributed", f"{room}.robust_linear"])
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
