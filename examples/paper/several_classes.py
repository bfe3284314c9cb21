"""Beyond the paper: does its Theorem 4.3 hold for several classes, trained as one problem?

Steepest descent on the joint robust risk in five norms of the (K, d) coefficients, and Adam, from
zero and without intercept. The margins of each path, in every norm, are divided by the largest ones
that exact separators have. For eps = 0 the ratio in the norm of the path tends to 1 (C. Fan,
M. Schmidt and C. Thrampoulidis, arXiv 2502.04664; for Adam in the largest entry).
"""

import itertools
import math
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from runner import command_line, fill, save

from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import robust_margin
from sklearn_robust.losses import Exponential
from sklearn_robust.norms import LpNorm, SchattenNorm
from sklearn_robust.separators.joint import largest_joint_distance, solve_joint_separator
from sklearn_robust.solvers import joint_steepest_descent

NORMS = ("1", "2", "inf", "spectral", "nuclear")
ADAM = "Adam"
OWN = {name: name for name in NORMS} | {ADAM: "inf"}  # the norm whose separator is expected
SHARES = (0.0, 0.25, 0.5)  # eps / eps*
DATA = ["n_samples", "n_features", "n_classes", "draw"]
PROBLEM = [*DATA, "q", "share"]
CERTIFIED = 1e-3  # relative gap up to which eps* and the largest margins are known
ADAM_STEPS = 5  # for each one of steepest descent: they are cheaper, without a line search
RATE = 0.1  # of Adam at its first step; it decays as 1 / sqrt(t)
MEMORY = (0.9, 0.999)  # decay of Adam's two moving averages
TINY = 1e-300  # keeps Adam's division by zero away, and is nothing beside a gradient


@dataclass(frozen=True)
class Setting:
    name: str
    sizes: tuple  # samples, features, classes, draws, steps


QUICK = Setting("several_classes_quick", ((15, 20, 3, 1, 300),))
# ten minutes of one core; the largest data first, whose parts take longest
FULL = Setting(
    "several_classes", ((20, 30, 10, 1, 800), (30, 50, 5, 2, 1500), (15, 20, 3, 3, 3000))
)


def make(setting, out, jobs):
    """Ratios of the margins to the largest ones along every path, tables of the ends, one
    figure."""
    wanted = pd.DataFrame(
        [
            (*size, draw, q, share, name, steps * (ADAM_STEPS if name == ADAM else 1))
            for *size, draws, steps in setting.sizes
            for draw in range(draws)
            # without an adversary the threat does not matter
            for q, share in ((2.0, 0.0), *itertools.product((2.0, math.inf), SHARES[1:]))
            for name in OWN
        ],
        columns=[*PROBLEM, "algorithm", "max_iter"],
    )
    path = out / f"{setting.name}.csv"
    table = fill(path, wanted, [*DATA, "q", "share"], follow_paths, jobs=jobs)
    last = table.groupby([*PROBLEM, "algorithm"], sort=False).tail(1)
    for (share, q), part in last.groupby(["share", "q"]):
        print(f"\neps = {share:g} eps*, q = {q:g}: margin / largest, mean over the data")
        print(part.groupby("algorithm", sort=False)[list(NORMS)].mean().round(3).to_string())
    own = table.assign(own=own_ratio(table))
    print("\nratio in the own norm, mean over the draws: at the end, and at a tenth of the steps")
    for part in (own, own[own.iteration <= own.max_iter / 10]):
        ends = part.groupby([*PROBLEM, "algorithm"], sort=False, as_index=False).tail(1)
        means = ends.groupby(["n_classes", "share", "q", "algorithm"], sort=False).own.mean()
        print(means.unstack().round(3).to_string())
    draw_figure(own, out)
    return table


def follow_paths(part):
    """The paths of these algorithms on one data set under one threat, at one share of eps*."""
    first = part.iloc[0]
    data = sample(first.n_samples, first.n_features, first.n_classes, first.draw, first.q)
    eps_star = largest_joint_distance(data, CERTIFIED).margin if first.share else 0.0
    problem = data.at_radius(first.share * eps_star)
    ratios = Ratios(problem)
    rows = []
    for cell in part.to_dict("records"):
        record = Record(ratios)
        follow_path(problem, cell["algorithm"], cell["max_iter"], record)
        rows += [{**cell, "eps": problem.radius, **row} for row in record.rows]
    return pd.DataFrame(rows)


def follow_path(problem, algorithm, max_iter, record):
    """Steepest descent in this norm, or Adam, with its record."""
    if algorithm == ADAM:
        adam(problem, max_iter, record)
        return
    norm = norms_of(problem.n_classes)[algorithm]
    solution = joint_steepest_descent(
        problem, Exponential(), norm, loss_tol=0, max_iter=max_iter, monitors=[record]
    )
    record.add(int(solution.n_iter[0]), solution.coef)


class Ratios:
    """The margins of a predictor over the largest ones, by norm."""

    def __init__(self, problem):
        self.problem = problem
        self.norms = norms_of(problem.n_classes)
        separators = {
            name: solve_joint_separator(problem, norm) for name, norm in self.norms.items()
        }
        if not all(found.gap <= CERTIFIED for found in separators.values()):
            raise RuntimeError("A separator is not certified: the largest margin is not known.")
        self.largest = {name: found.margin for name, found in separators.items()}

    def __call__(self, coef):
        coef = coef.reshape(self.problem.n_classes, -1)
        intercept = np.zeros(len(coef))
        return {
            name: round(robust_margin(self.problem, norm, coef, intercept) / self.largest[name], 6)
            for name, norm in self.norms.items()
        }


@dataclass
class Record:
    """The ratios along a path, about four times in a decade of iterations; a monitor of a
    solver."""

    ratios: Ratios
    every: int = 0  # the solver is read where it certifies
    rows: list = field(default_factory=list)

    def __call__(self, iteration, ids, figures):
        """Add the predictor of a joint path where a record is due; the path goes on."""
        due = 10**0.25 * self.rows[-1]["iteration"] if self.rows else 1
        if iteration >= due and figures["coef"].any():
            self.add(iteration, figures["coef"])
        return False

    def add(self, iteration, coef):
        """Add a predictor of K d entries, in place of one at the same iteration."""
        self.rows = [row for row in self.rows if row["iteration"] < iteration]
        self.rows.append({"iteration": iteration, **self.ratios(coef)})


def adam(problem, max_iter, record):
    """Adam on the logarithm of the risk, with the subgradient that automatic differentiation
    gives."""
    coef = np.zeros((problem.n_classes, problem.n_features))
    mean, square = np.zeros_like(coef), np.zeros_like(coef)
    for t in range(1, max_iter + 1):
        weights = problem.evaluate(Exponential(), coef).weights
        worst = problem.threat.worst(coef[:, None] - coef)
        penalty = np.einsum("lk,lkd->ld", problem.pair_weights(weights), worst)
        gradient = problem.radius * penalty - problem.weighted_sum(weights)
        mean = MEMORY[0] * mean + (1 - MEMORY[0]) * gradient
        square = MEMORY[1] * square + (1 - MEMORY[1]) * gradient**2
        unbiased = mean / (1 - MEMORY[0] ** t), square / (1 - MEMORY[1] ** t)
        coef = coef - RATE / math.sqrt(t) * unbiased[0] / (np.sqrt(unbiased[1]) + TINY)
        record(t, None, {"coef": coef})
    record.add(max_iter, coef)


def sample(n_samples, n_features, n_classes, draw, q):
    """Gaussian classes of about n / K samples around Gaussian means, at radius 1."""
    rng = np.random.default_rng((draw, n_samples, n_features, n_classes))
    y = np.arange(n_samples) % n_classes
    means = rng.standard_normal((n_classes, n_features))
    X = means[y] + rng.standard_normal((n_samples, n_features))
    return JointProblem.from_data(X, y, q=q, eps=1.0, fit_intercept=False)


def norms_of(n_classes):
    """The norms of the coefficients by their names."""
    spectral = SchattenNorm(math.inf, n_classes)
    entrywise = [LpNorm(p) for p in (1, 2, math.inf)]
    return dict(zip(NORMS, (*entrywise, spectral, spectral.dual), strict=True))


def own_ratio(table):
    """The ratio of each row in the norm of its algorithm."""
    return [row[OWN[row["algorithm"]]] for row in table.to_dict("records")]


def draw_figure(table, out):
    """The ratios in all norms at the ends of the paths, and in the own norm along them."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.8), layout="constrained")
    last = table.groupby([*PROBLEM, "algorithm"], sort=False).tail(1)
    shown = last[last.share == SHARES[-1]].groupby("algorithm", sort=False)[list(NORMS)].mean()
    axes[0].imshow(shown, vmin=0, vmax=1)
    axes[0].set(title=f"margin / largest, eps = {SHARES[-1]:g} eps*", xlabel="norm")
    axes[0].set_xticks(range(len(NORMS)), NORMS, rotation=30)
    axes[0].set_yticks(range(len(shown)), shown.index)
    for (i, j), value in np.ndenumerate(shown.to_numpy()):
        colour = "black" if value > 0.6 else "white"
        axes[0].text(j, i, f"{value:.2f}", ha="center", va="center", color=colour)
    for ax, (share, part) in zip(axes[1:], table.groupby("share"), strict=True):
        for name, paths in part.groupby("algorithm", sort=False):
            # a path that has ended stays where it is
            at = paths.pivot(index="iteration", columns=[*DATA, "q"], values="own").ffill()
            ax.semilogx(at.index, at.mean(axis=1), label=name)
        ax.set(title=f"own norm, eps = {share:g} eps*", xlabel="iteration", ylim=(0, 1.02))
    axes[1].legend(fontsize=8)
    save(figure, out, "several_classes")


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL)
