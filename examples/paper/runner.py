"""A table of results that fills up cell by cell: in parallel, in any order, and on from where a
killed run stopped."""

import argparse
import io
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from joblib import Parallel, delayed


def fill(path, wanted, by, compute, *, jobs):
    """Compute what the table at `path` lacks of the wanted cells, append it there, and return the
    wanted rows.

    Parameters
    ----------
    path : Path
        A CSV file with the columns of `wanted` and those that `compute` adds.
    wanted : DataFrame
        One row a cell.
    by : list of str
        Cells that agree in these columns are computed together, the first ones first.
    compute : function
        From the missing cells of one group to a table of them with their results, one row or more a
        cell.
    jobs : int
        Processes, -1 for one a core.
    """
    key = list(wanted.columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    missing = wanted[~among(wanted, read(path, key), key)]
    groups = [group for _, group in missing.groupby(by, sort=False)]
    start = time.monotonic()
    results = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(compute)(group) for group in groups
    )
    for count, rows in enumerate(results, start=1):
        add(path, rows, key)
        elapsed = time.monotonic() - start
        left = elapsed / count * (len(groups) - count)
        print(
            f"{path.stem}: {count} of {len(groups)}, {elapsed:.0f} s, about {left:.0f} s left",
            file=sys.stderr,
        )
    return wanted.merge(
        read(path, key).drop(columns="rows"), on=key, how="left", validate="one_to_many"
    )


def read(path, key):
    """The cells of a table that are whole: each row says how many its cell has, and a row that was
    cut has no end."""
    text = path.read_text() if path.exists() else ""
    lines = text[: text.rfind("\n") + 1]
    table = pd.read_csv(io.StringIO(lines)) if lines else pd.DataFrame(columns=[*key, "rows"])
    if "rows" not in table:
        raise ValueError(
            f"{path} does not say how many rows a cell has. Move it away, or compute the table "
            f"anew."
        )
    return table[table.groupby(key).rows.transform("size") == table.rows]


def add(path, rows, key):
    """Put these cells into the table, in place of what it has of them; the file is whole at every
    moment."""
    rows = rows.assign(rows=rows.groupby(key)[key[0]].transform("size"))
    have = read(path, key)
    have = have[~among(have, rows, key)]
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    (pd.concat([have, rows]) if len(have) else rows).to_csv(unfinished, index=False)
    os.replace(unfinished, path)


def among(cells, others, key):
    """Which of the cells are among the others."""
    return cells.set_index(key).index.isin(others.set_index(key).index)


def cells(**values):
    """Every combination, as a table; the last name varies fastest."""
    index = pd.MultiIndex.from_product(
        [list(value) for value in values.values()], names=list(values)
    )
    return index.to_frame(index=False)


def save(figure, out, name):
    """As PNG and as SVG that is the same in every run."""
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=110)
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(out / f"{name}.svg", metadata={"Date": None})


def curve(ax, table, x, y, **style):
    """The mean over draws against x, and the range of the draws."""
    group = table.groupby(x)[y]
    mean, low, high = group.mean(), group.min(), group.max()
    (line,) = ax.plot(mean.index, mean, **style)
    ax.fill_between(mean.index, low, high, color=line.get_color(), alpha=0.12, linewidth=0)


def heat_map(ax, values, *, limit, title):
    """Values by rows and columns of a table, blue where positive."""
    image = ax.imshow(values.to_numpy(), cmap="RdBu", vmin=-limit, vmax=limit)
    ax.set(title=title, xticks=range(values.shape[1]), yticks=range(values.shape[0]))
    ax.set(
        xticklabels=values.columns,
        yticklabels=values.index,
        xlabel=values.columns.name,
        ylabel=values.index.name,
    )
    for i, row in enumerate(values.to_numpy()):
        for j, value in enumerate(row):
            colour = "white" if abs(value) > 0.6 * limit else "black"
            ax.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    return image


def command_line(text, make, *, quick, full, reported=None):
    """Run `make(setting, out, jobs)` as the user asks for it; the settings of networks, which have
    a `mnist`, take a folder for it and a choice of runs."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="two minutes on two cores (default)")
    if reported:
        size.add_argument(
            "--reported", action="store_true", help="the size that docs/reproduction.md reports"
        )
    size.add_argument("--full", action="store_true", help="the size of the paper")
    parser.add_argument(
        "--out", type=Path, default=Path("paper_results"), help="folder of tables and figures"
    )
    parser.add_argument("--jobs", type=int, default=-1, help="processes; -1 is one a core")
    if hasattr(quick, "mnist"):
        parser.add_argument(
            "--mnist",
            type=Path,
            help="folder with the MNIST test set, t10k-*-ubyte.gz (see images.py)",
        )
        choice = parser.add_argument_group("other runs than those of the size")
        choice.add_argument("--samples", type=int, nargs="+")
        choice.add_argument("--eps", type=float, nargs="+", dest="radii")
        choice.add_argument("--init-scales", type=float, nargs="+")
        choice.add_argument("--seeds", type=int, dest="n_seeds", help="how many")
        choice.add_argument("--epochs", type=int, dest="max_epochs", help="at most")
    arguments = parser.parse_args()
    mpl.use("agg")
    setting = (
        full if arguments.full else reported if getattr(arguments, "reported", False) else quick
    )
    chosen = {
        name: tuple(value) if isinstance(value, list) else value
        for name in ("mnist", "samples", "radii", "init_scales", "n_seeds", "max_epochs")
        if (value := getattr(arguments, name, None)) is not None
    }
    make(replace(setting, **chosen), arguments.out, arguments.jobs)
