"""Robust train and test accuracy along training: Figures 3 left, 7 and 8."""

import matplotlib.pyplot as plt
from networks import GD, SD, comparison, run
from runner import curve, save

COLOURS = {GD: "C1", SD: "C0"}


def training_figure(setting, out, jobs, name, *, samples=None, radii=None, init_scales=None):
    """One panel for each number of samples and init scale (rows) and eps (columns); prints and
    returns the comparison."""
    table = run(setting, out, jobs)
    radii = radii or setting.radii
    rows = [
        (n, scale)
        for n in samples or setting.samples
        for scale in init_scales or setting.init_scales
    ]
    grid = (len(rows), len(radii))
    figure, axes = plt.subplots(
        *grid, figsize=(4 * grid[1], 3 * grid[0]), squeeze=False, sharey=True, layout="constrained"
    )
    along = table[table.moment == "along the way"]
    for row, (n, scale) in zip(axes, rows, strict=True):
        for ax, eps in zip(row, radii, strict=True):
            here = along[(along.n_samples == n) & (along.init_scale == scale) & (along.eps == eps)]
            for algorithm, colour in COLOURS.items():
                part = here[here.algorithm == algorithm]
                for column, style, label in (
                    ("robust_test_accuracy", "-", algorithm),
                    ("robust_train_accuracy", ":", None),
                ):
                    curve(ax, part, "epoch", column, color=colour, linestyle=style, label=label)
            ax.set(
                title=f"n = {n}, eps = {eps:g}" + (f", init {scale:g}" if scale != 1 else ""),
                xlabel="epoch",
            )
    for ax in axes[:, 0]:
        ax.set_ylabel("robust accuracy under PGD\n(dotted: training)")
    axes[0, 0].legend(fontsize=8)
    save(figure, out, name)
    compared = comparison(table)
    by = ["n_samples", "eps", "init_scale", "algorithm"]
    print(compared.drop(columns="seed").groupby(by).mean().round(1).to_string())
    lead = compared.pivot(index=["n_samples", "eps", "init_scale", "seed"], columns="algorithm")
    columns = ["last", "best", "equal loss", "strong attack", "certified"]
    lead = (lead.xs(SD, axis=1, level=1) - lead.xs(GD, axis=1, level=1))[columns]
    print("\nSD less GD, points: mean over seeds, and each seed's at the last epoch")
    print(lead.groupby(level=[0, 1, 2]).mean().round(1).to_string())
    print(lead["last"].unstack().round(1).to_string())
    return compared
