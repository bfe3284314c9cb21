"""Gaps against the number of samples: what Figures 1 bottom, 2 left and 5 share."""

import matplotlib.pyplot as plt
from linear import CD, CD_CONSTANT, CLEAN_LIMIT, DIAGONAL, GD, L1_LIMIT, L2_LIMIT, run
from runner import curve, save

PATHS = {CD: "C0", GD: "C1", DIAGONAL: "C2"}
OTHERS = {
    L1_LIMIT: ("C0", ":"),
    L2_LIMIT: ("C1", ":"),
    CD_CONSTANT: ("C0", "--"),
    CLEAN_LIMIT: ("grey", "--"),
}


def gap_figure(setting, out, jobs, name, panels, shares):
    """One row of panels for each (distribution, ties), one column for each eps; prints means and
    returns the table.

    Parameters
    ----------
    panels : dict from title to (teacher_sparsity, data_sparsity, ties)
    shares : sequence
        eps / eps* of the columns.
    """
    grid = (len(panels), len(shares))
    figure, axes = plt.subplots(
        *grid,
        figsize=(1 + 3.4 * len(shares), 3.2 * len(panels)),
        squeeze=False,
        sharex=True,
        sharey="row",
        layout="constrained",
    )
    tables = {}
    for row, (title, (teacher, data, ties)) in zip(axes, panels.items(), strict=True):
        algorithms = [*PATHS, *OTHERS]
        if data != setting.dense:
            # the constant step takes hundreds of thousands of iterations there
            algorithms.remove(CD_CONSTANT)
        samples = setting.samples
        # of many sparse samples some are opposite, both labelled -1: no line through 0 separates
        # them
        if ties == "negative":
            samples = [n for n in samples if n <= setting.n_features // 2]
        cells = {
            "distributions": [(teacher, data)],
            "samples": samples,
            "shares": sorted(shares),
            "ties": ties,
        }
        table = run(setting, out, jobs, algorithms=algorithms, **cells)
        tables[title] = table
        for ax, share in zip(row, shares, strict=True):
            here = table[table.share == share]
            for algorithm, colour in PATHS.items():
                curve(
                    ax,
                    here[here.algorithm == algorithm],
                    "n_samples",
                    "robust_gap",
                    color=colour,
                    marker="o",
                    label=algorithm,
                )
            for algorithm, (colour, line) in OTHERS.items():
                mean = here[here.algorithm == algorithm].groupby("n_samples").robust_gap.mean()
                ax.plot(mean.index, mean, color=colour, linestyle=line, label=algorithm)
            ax.set(xscale="log", xticks=setting.samples, xticklabels=setting.samples)
            ax.minorticks_off()
        row[0].set_ylabel(f"{title}\ntrain - test, points")
        print(f"\n{title}: robust test accuracy in %, mean of {setting.n_draws} draws (range)")
        print(summary(table).to_string())
    for ax, share in zip(axes[0], shares, strict=True):
        ax.set_title(f"eps = {share:g} eps*")
    for ax in axes[-1]:
        ax.set_xlabel("samples")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
    )
    save(figure, out, name)
    return tables


def summary(table):
    """Robust test accuracy by samples and eps (rows) and algorithm (columns)."""
    accuracy = 100 * table.set_index(["n_samples", "share", "algorithm"]).robust_test_accuracy
    groups = accuracy.groupby(level=[0, 1, 2], sort=False)
    text = groups.agg(lambda a: f"{a.mean():.1f} ({a.min():.1f} to {a.max():.1f})")
    return text.unstack(sort=False)
