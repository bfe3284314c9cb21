"""How often the intervals of a robustness report hold the figure of the population.

Run it with

    python benchmarks/report_intervals.py [--populations 2000] [--cores 2]

Each population has two classes with Gaussian scores, means, deviations, shares of the classes and
an adversary of its own, all drawn at random; its figures are known by quadrature. One sample of
each size is drawn of it, and measured as `RobustnessReport` does. The table says of how many
populations the interval holds the figure: no kind may hold fewer than 95 %.
"""

from __future__ import annotations

import argparse
import multiprocessing

import numpy as np
from _harness import write  # before NumPy, whose threads it sets
from scipy.special import expit
from scipy.stats import norm

from sklearn_robust.metrics.linear_view import LinearView
from sklearn_robust.reports.measuring import LinearMeasurement
from sklearn_robust.threats import LpBall

SIZES = (30, 100, 300)
LEAST = 5  # samples of each class in a sample, below which a report is no use
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(101)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


class Population:
    """Scores N(m, s) of the class 1 and N(-m, 1) of the class 0, shifted by the adversary."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.mean, self.deviation = rng.uniform(0.2, 2), rng.uniform(0.5, 2)
        self.shift, self.share = rng.uniform(0, 1), rng.uniform(0.2, 0.8)

    def figures(self) -> dict[str, float]:
        """Those of the population, by the names of a report."""
        means = np.array([-self.mean + self.shift, self.mean - self.shift])
        deviations, shares = np.array([1.0, self.deviation]), np.array([1 - self.share, self.share])
        right = norm.cdf(np.array([-1, 1]) * means / deviations)
        grid = np.linspace(-12, 12, 24_001)
        below = norm.cdf((grid[:, None] - means) / deviations)
        area = norm.cdf((means[1] - means[0]) / np.hypot(*deviations))
        scores = means[:, None] + deviations[:, None] * NODES
        own = expit(np.array([[-1], [1]]) * scores)
        return {
            "robust accuracy": shares @ right,
            "balanced robust accuracy": right.mean(),
            "AUC": area,
            "Gini": 2 * area - 1,
            "KS": max((below[:, 0] - below[:, 1]).max(), 0),
            "Brier score": shares @ ((1 - own) ** 2 @ WEIGHTS),
            "log loss": shares @ (-np.log(own) @ WEIGHTS),
        }

    def sample(self, n: int, weighted: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, labels and weights of n samples, at least a few of each class."""
        while True:
            y = (self.rng.random(n) < self.share).astype(int)
            if LEAST <= y.sum() <= n - LEAST:
                break
        noise = self.rng.standard_normal(n)
        scores = np.where(y == 1, self.mean + self.deviation * noise, noise - self.mean)
        return scores[:, None], y, self.rng.exponential(size=n) if weighted else np.ones(n)


def probabilities(X: np.ndarray) -> np.ndarray:
    """Those of a classifier whose score is its one feature."""
    return expit(X * np.array([-1.0, 1.0]))


def held(seed: int) -> dict[tuple[int, bool, str], tuple[bool, str]]:
    """Whether each interval holds the figure of one population, and its kind."""
    population = Population(seed)
    truth, found = population.figures(), {}
    for n in SIZES:
        for weighted in (False, True):
            X, y, weight = population.sample(n, weighted)
            view = LinearView(X, np.ones((1, 1)), np.zeros(1), np.array([0, 1]))
            ball = LpBall(2, population.shift)
            measured = LinearMeasurement(view, y, weight, ball, probabilities)
            for name, figure in measured.figures(np.arange(n)).items():
                inside = figure.low <= truth[name] <= figure.high
                found[n, weighted, name] = inside, figure.name
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--populations", type=int, default=2000)
    parser.add_argument("--cores", type=int, default=1)
    arguments = parser.parse_args()
    found = []
    with multiprocessing.Pool(arguments.cores) as pool:
        for one in pool.imap_unordered(held, range(arguments.populations), chunksize=10):
            found.append(one)
            if len(found) % 100 == 0 or len(found) == arguments.populations:
                write_table(found)


def write_table(found: list[dict[tuple[int, bool, str], tuple[bool, str]]]) -> None:
    """The share of the populations so far whose figure each kind of interval holds."""
    count = len(found)
    lines = [
        "# Coverage of the intervals of a report",
        "",
        f"`python benchmarks/report_intervals.py --populations {count}`: the share of {count} "
        "populations whose figure the interval holds.",
        "",
        "| figure | weights | " + " | ".join(f"n = {n}" for n in SIZES) + " | kind of interval |",
        "| --- | --- |" + " --- |" * (len(SIZES) + 1),
    ]
    least = 1.0
    for name in Population(0).figures():
        for weighted in (False, True):
            shares = [np.mean([of[n, weighted, name][0] for of in found]) for n in SIZES]
            least = min(least, *shares)
            cells = " | ".join(f"{share:.4f}" for share in shares)
            kind = found[0][SIZES[0], weighted, name][1]
            weights = "exponential" if weighted else "equal"
            lines.append(f"| {name} | {weights} | {cells} | {kind} |")
    lines += ["", f"The least is {least:.4f}."]
    write("report_intervals.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
