"""The linear experiments of the paper (section 5.1, appendix E and F.1): one grid, of which the
figures are views.

A data set is a draw of teacher and samples. On it every algorithm is trained for every eps, in one
batch, from zero, with the exponential loss until the sum of the robust losses is below 1e-3, by
adaptive steps; beside them stand the exact limits. eps is a share of eps*, the largest radius for
which the data set has a robust separator, which a linear program gives. Test points are streamed,
and robust accuracy is exact.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from runner import cells, fill

from sklearn_robust import (
    make_teacher_classification,
    max_margin,
    min_norm_separator,
    separator_path,
)
from sklearn_robust.losses import Exponential
from sklearn_robust.norms import LpNorm
from sklearn_robust.problems import RobustProblem
from sklearn_robust.solvers import diagonal_descent, steepest_descent
from sklearn_robust.threats import LpBall

GD, CD, DIAGONAL = "gradient descent", "coordinate descent", "diagonal network"
# the paper's step 1/B^2 on the log-risk: many more iterations
CD_CONSTANT = "coordinate descent, constant step"
L1_LIMIT, L2_LIMIT, CLEAN_LIMIT = "l1 limit", "l2 limit", "l2 limit, trained without adversary"
DATA_SET = ["teacher_sparsity", "data_sparsity", "ties", "n_samples", "draw"]

_CHUNK = 16_384  # test points in memory at a time
_TEACHER, _TRAIN, _TEST = range(3)  # independent random streams


@dataclass(frozen=True)
class Setting:
    """The size of a run. A sparsity equal to n_features stands for dense vectors."""

    name: str
    n_features: int = 512
    sparsities: tuple = (4, 23, 128, 512)
    samples: tuple = (64, 128, 256, 512, 1024)
    shares: tuple = tuple(i / 8 for i in range(8))
    n_draws: int = 3
    n_test: int = 512**2
    max_iter: int = 200_000

    @property
    def dense(self):
        return self.n_features

    @property
    def sparse(self):
        return self.sparsities[0]


FULL = Setting("full")
QUICK = Setting("quick", samples=(64, 128), shares=(0.0, 0.25, 0.5, 0.75), n_draws=2, n_test=20_000)


def run(setting, out, jobs, *, distributions, algorithms, shares=None, samples=None, ties="redraw"):
    """The table of these cells, with gaps in points; computes what is missing.

    Parameters
    ----------
    distributions : list of pairs
        Sparsities of teacher and data.
    algorithms : list of str
    shares, samples : sequence, optional
        Those of the setting by default.
    """
    pairs = pd.DataFrame(distributions, columns=DATA_SET[:2])
    rest = cells(
        ties=[ties],
        n_samples=samples or setting.samples,
        draw=range(setting.n_draws),
        algorithm=algorithms,
        share=shares or setting.shares,
    )
    # small data sets first
    wanted = rest.merge(pairs, how="cross").sort_values("n_samples", kind="stable")
    wanted = wanted[[*DATA_SET, "algorithm", "share"]].reset_index(drop=True)
    path = out / f"linear_{setting.name}.csv"
    table = fill(path, wanted, DATA_SET, functools.partial(results, setting), jobs=jobs)
    table["robust_gap"] = 100 * (table.robust_train_accuracy - table.robust_test_accuracy)
    table["clean_gap"] = 100 * (table.train_accuracy - table.test_accuracy)
    return table


def results(setting, wanted):
    """Train and judge the wanted cells of one data set."""
    data_set = wanted[DATA_SET].iloc[0].to_dict()
    X, y, teacher = training_data(setting, data_set)
    eps_star = max_margin(X, y, q=math.inf).margin
    parts = []
    for algorithm, part in wanted.groupby("algorithm", sort=False):
        eps = part.share.to_numpy() * eps_star
        coef, log_loss, n_iter = train(setting, algorithm, X, y, eps)
        parts.append(
            (part.assign(eps=eps, eps_star=eps_star, n_iter=n_iter, log_loss=log_loss), coef)
        )
    table = pd.concat([part for part, _ in parts])
    coef = np.concatenate([coef for _, coef in parts])
    penalty = table.eps.to_numpy() * LpBall(math.inf, 1.0).penalty(coef)
    right = np.mean(outcomes(coef, penalty, X, y), axis=1)
    table["train_accuracy"], table["robust_train_accuracy"] = right
    streamed = [
        outcomes(coef, penalty, *part).sum(axis=1) for part in test_data(setting, data_set, teacher)
    ]
    table["test_accuracy"], table["robust_test_accuracy"] = sum(streamed) / setting.n_test
    return table


def outcomes(coef, penalty, X, y):
    """Whether each sample is classified rightly, without and with the adversary, by each of k
    predictors with their penalties (k,): (2, n, k)."""
    margins = y[:, None] * (X @ coef.T)
    return np.stack([margins > 0, margins > penalty])


def train(setting, algorithm, X, y, eps):
    """Coefficients (k, d) for k radii, the log of the sum of their robust losses, and the
    iterations that they took."""
    if algorithm == CLEAN_LIMIT:
        separator = min_norm_separator(X, y, p=2, q=math.inf, eps=0.0)
        return np.tile(separator.coef, (len(eps), 1)), math.nan, math.nan
    if algorithm in (L1_LIMIT, L2_LIMIT):
        p = 1 if algorithm == L1_LIMIT else 2
        path = separator_path(X, y, p=p, q=math.inf, eps=eps)
        return np.stack([separator.coef for separator in path]), math.nan, math.nan
    problem = robust_problem(X, y, eps)
    options = {"max_iter": setting.max_iter, "loss_tol": 1e-3, "tol": 0.0}
    if algorithm == DIAGONAL:
        solution = diagonal_descent(problem, Exponential(), init_scale=1e-3, **options)
    else:
        norm, step = (
            LpNorm(2 if algorithm == GD else 1),
            "paper" if algorithm == CD_CONSTANT else "adaptive",
        )
        solution = steepest_descent(problem, Exponential(), norm, step_size=step, **options)
    return solution.coef, solution.log_risk + math.log(len(y)), solution.n_iter


def robust_problem(X, y, eps, q=math.inf):
    """One problem for each radius, all on the same data."""
    problem = RobustProblem.from_data(X, y.astype(float), q=q, eps=0.0, fit_intercept=False)
    return problem.at_radii(eps)


def training_data(setting, data_set):
    """Samples, labels and teacher; a draw has the same teacher, and the same test set, for every
    number of samples."""
    teacher = make_teacher_classification(
        1,
        setting.n_features,
        teacher_sparsity=_sparsity(setting, data_set["teacher_sparsity"]),
        return_teacher=True,
        random_state=_seeds(_TEACHER, data_set)[0],
    )[2]
    seed = _seeds(_TRAIN, data_set, data_set["n_samples"])[0]
    return *_samples(setting, data_set, teacher, data_set["n_samples"], seed), teacher


def test_data(setting, data_set, teacher):
    """The test points, a part at a time."""
    sizes = [min(_CHUNK, setting.n_test - start) for start in range(0, setting.n_test, _CHUNK)]
    for size, seed in zip(sizes, _seeds(_TEST, data_set, count=len(sizes)), strict=True):
        yield _samples(setting, data_set, teacher, size, seed)


def _samples(setting, data_set, teacher, n, seed):
    sparsity = _sparsity(setting, data_set["data_sparsity"])
    return make_teacher_classification(
        n,
        setting.n_features,
        data_sparsity=sparsity,
        teacher=teacher,
        ties=data_set["ties"],
        random_state=seed,
    )


def _sparsity(setting, k):
    return None if k == setting.dense else int(k)


def _seeds(role, data_set, *more, count=1):
    entropy = (
        role,
        data_set["teacher_sparsity"],
        data_set["data_sparsity"],
        data_set["draw"],
        *more,
    )
    return [
        int(seed)
        for seed in np.random.SeedSequence([int(part) for part in entropy]).generate_state(count)
    ]
