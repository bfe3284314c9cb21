"""`python -m sklearn_robust [table.csv --target label]`.

With a table: a robust classifier for it, and the report of its robustness. Without: what robust
training buys on real data, and the price of implicit bias, on one screen.

Exit codes: 0 success, 2 wrong arguments or an unsuitable table, 130 interrupted; any other failure
ends with its traceback and 1.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from sklearn_robust._command_line import demonstration, own_table
from sklearn_robust._command_line.terminal import Progress


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    progress = Progress(silent=arguments.quiet)
    try:
        if arguments.table is None:
            demonstration.run(arguments, progress)
        else:
            own_table.run(arguments, progress)
    except own_table.UnsuitableTable as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        progress.clear()
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sklearn_robust",
        description="With a table: trains a robust linear classifier for it, prints its clean and "
        "exact robust accuracy on rows that were not trained on, and writes a report. Without: "
        "clean and exact robust accuracy of linear classifiers on real data, and the directions "
        "that steepest descent takes against the exact robust separators.",
    )
    parser.add_argument("table", nargs="?", help="a CSV file whose first line names the columns")
    table = parser.add_argument_group("with a table")
    table.add_argument("--target", help="the column of the labels")
    table.add_argument(
        "--drop", nargs="+", default=[], help="columns to leave out, such as an identifier"
    )
    table.add_argument(
        "--report",
        default="robustness.html",
        help="the file of the report: .html, .md or .json (default: robustness.html)",
    )
    demo = parser.add_argument_group("without a table")
    demo.add_argument(
        "--dataset",
        choices=("breast_cancer", "digits38"),
        default="breast_cancer",
        help="real data to use",
    )
    demo.add_argument(
        "--grid",
        type=_radius,
        nargs="+",
        help=(
            "training radii to choose from (default: 0.25, 0.5, 0.75, 1 and 1.25 times each threat "
            "radius)"
        ),
    )
    parser.add_argument(
        "--q",
        type=_exponent,
        default=math.inf,
        help="norm of the perturbation, in [1, inf] (default: inf)",
    )
    parser.add_argument(
        "--eps",
        type=_radius,
        nargs="+",
        help=(
            "radii of the threat that scores (default: 0.2 0.4 standard deviations, for a table "
            "0.1 0.2, or 0.1 0.2 of the pixels' range [0, 1])"
        ),
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of splits and synthetic data (default: 0)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress display")
    return parser


def _exponent(text: str) -> float:
    value = float(text)
    if not value >= 1:
        raise argparse.ArgumentTypeError(f"must be in [1, inf], got {text}")
    return value


def _radius(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number >= 0, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
