"""The races of the committed tables in one: cells won, level and lost, and by how much.

No race is run: the tables in `results/` are read as their scripts wrote them. It writes
`results/summary.md`, which opens the page of benchmarks, and names every cell that is lost, with
the reason where an experiment showed it.

    python benchmarks/summary.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import _harness as harness

LEVEL = 0.05  # a cell is level where the times differ by at most this share
Cells = list[dict[str, str]]  # the lines of a table, by the names of the columns


def read(name: str) -> Cells:
    """The first table of a result, without marks."""
    lines = (harness.RESULTS / name).read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    cells = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        cells.append([entry.strip().strip("*") for entry in line.strip("|").split(" | ")])
    header = [entry.strip() for entry in lines[first].strip("|").split(" | ")]
    return [dict(zip(header, entries, strict=True)) for entries in cells]


def number(entry: str) -> float:
    """The number of an entry such as **.7x** or > 3x, which is at least that."""
    return float(entry.replace("\\*", "").strip("*x> "))


@dataclass(frozen=True)
class Race:
    """A table, its peer, the time of the peer over ours in a line, and the name of the line."""

    title: str
    peer: str
    tables: tuple[str, ...]
    ratio: Callable[[dict[str, str]], float]
    cell: Callable[[dict[str, str]], str]
    reasons: dict[str, str]  # why cells are lost, by parts of their names, with a bar between

    def ratios(self) -> dict[str, float]:
        return {self.cell(line): self.ratio(line) for name in self.tables for line in read(name)}


RACES = (
    Race(
        "exact separators",
        "the fastest of HiGHS, piqp, clarabel, ECOS, SCS, nnls and LinearSVC",
        ("separators.md", "separators_medium.md", "separators_large.md"),
        lambda line: number(line["ratio"]),
        lambda line: f"{line['case (p, q)'].split(', eps')[0]} on {line['data']}",
        {
            "(2, 2) on digits38": "validation and certificate take 1.4 of 5.0 ms",
            "digits38": "small products and Python calls, about half each, against compiled code",
            "(2, 2) on g": "the peer's time is without validation and certificate",
            "(1, inf) on g": "piqp is compiled, and solves the same dual",
        },
    ),
    Race(
        "minimisers of the robust risk",
        "the faster of L-BFGS-B with its own stop and accelerated gradient",
        ("robust_risk.md",),
        lambda line: number(line["own / ours"]),
        lambda line: f"q = {line['q']}, {line['loss']}, eps = {line['eps']} on {line['data']}",
        {
            "q = 2|breast_cancer": "4 to 6 Newton steps, of whose time products with the data take "
            "11 to 13 %, the rest is mostly Python calls; L-BFGS-B takes 16 to 40 evaluations",
            "q = 2|digits": "3 Newton steps, of whose time products with the data take 16 %, the "
            "rest is mostly Python calls; L-BFGS-B takes 18 or 19 evaluations",
            "q = 1|breast_cancer": "5 Newton steps; half of the time is the search for the face of "
            "the maximum norm; L-BFGS-B takes 60 evaluations",
            "q = inf|5 000 x 200": "one Gram matrix takes 41 to 44 % of the time, 7 products a "
            "quarter; L-BFGS-B takes 6 evaluations, of two products each, and certifies nothing",
            "q = inf|15 000 x 120": "one Gram matrix takes 35 to 38 % of the time, 6 products a "
            "third; L-BFGS-B takes 6 evaluations, of two products each, and certifies nothing",
            "q = 2|5 000 x 200": "13 to 17 products and 11 to 14 evaluations of the loss, "
            "certificate included; L-BFGS-B takes 7 evaluations, of two products each, and "
            "certifies nothing",
            "q = 1|5 000 x 200": "21 to 25 products; accelerated gradient takes 6 or 7 steps, and "
            "certifies nothing",
        },
    ),
    Race(
        "whole fits",
        "LogisticRegression, which knows no adversary",
        ("whole_fits.md",),
        lambda line: 1 / number(line["ratio"]),
        lambda line: f"q = {line['q']}, {line['loss']} on {line['data']}",
        {
            "q = 1|breast_cancer": "7 Newton steps on 29 to 33 faces of the maximum norm, whose "
            "search takes half of the minimiser's time",
            "float32": "LogisticRegression computes in single precision, the certificate in double",
            "q = 1|5 000 x 200": "17 to 20 quasi-Newton steps; Newton's method takes .8 to 1.1 of "
            "their time",
            "": "LogisticRegression has neither adversary nor certificate",
        },
    ),
    Race(
        "model selection",
        "GridSearchCV",
        ("model_selection.md",),
        lambda line: number(line["ratio"]),
        lambda line: f"{line['radii']}, {line['loss']} on {line['data']}",
        {},
    ),
)


def summary_line(race: Race) -> list[str]:
    """Won, level and lost cells of a race, with the median ratio of the won and of the lost."""
    ratios = race.ratios().values()
    won = [ratio for ratio in ratios if ratio > 1 + LEVEL]
    lost = [1 / ratio for ratio in ratios if ratio < 1 - LEVEL]
    level = len(ratios) - len(won) - len(lost)

    def share(part: list[float]) -> str:
        if not part:
            return "0"
        return f"{len(part)}: {median(part):.3g} (up to {max(part):.3g})"

    return [race.title, race.peer, f"{len(ratios)}", share(won), f"{level}", share(lost)]


def lost_lines(race: Race) -> list[list[str]]:
    """The lost cells of a race, the worst first."""
    lost = sorted((ratio, cell) for cell, ratio in race.ratios().items() if ratio < 1 - LEVEL)
    return [
        [
            race.title,
            cell,
            f"{1 / ratio:.2f}",
            next(
                (
                    reason
                    for parts, reason in race.reasons.items()
                    if all(part in cell for part in parts.split("|"))
                ),
                "not known",
            ),
        ]
        for ratio, cell in lost
    ]


def text() -> str:
    """The summary of the committed tables."""
    parts = [
        "# Summary\n",
        "By `benchmarks/summary.py`, from the tables below: a cell is a line of such a table, its "
        "ratio the time of the peer over ours, or ours over the peer's where it is lost. Medians "
        f"of the ratios, and the largest. Level: within {LEVEL:.0%}.\n",
        harness.table(
            ["race", "peer", "cells", "won, times faster", "level", "lost, times slower"],
            [summary_line(race) for race in RACES],
        ),
        "## Lost cells\n",
        "Steps, products and shares of the time of the minimisers are of runs on a machine that "
        "other work kept busy.\n",
        harness.table(
            ["race", "cell", "times slower", "reason, as far as an experiment showed it"],
            [line for race in RACES for line in lost_lines(race)],
        ),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    harness.write("summary.md", text())
