"""Mean over the number of samples of the gap of gradient descent less that of coordinate descent:
Figures 2 right and 6."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from linear import CD, GD, run
from runner import heat_map, save


def heat_map_figure(setting, out, jobs, name, gap):
    """One panel for each eps, teachers by data; prints and returns the values."""
    distributions = list(itertools.product(setting.sparsities, repeat=2))
    table = run(setting, out, jobs, distributions=distributions, algorithms=[GD, CD])
    index = ["share", "teacher_sparsity", "data_sparsity", "n_samples", "draw"]
    by_algorithm = table.pivot_table(index=index, columns="algorithm", values=gap)
    values = (by_algorithm[GD] - by_algorithm[CD]).groupby(level=index[:3]).mean()
    values = values.rename_axis(index=["eps / eps*", "sparsity of teacher", "sparsity of data"])
    columns = min(4, len(setting.shares))
    rows = -(-len(setting.shares) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3 * columns + 0.8, 3 * rows), squeeze=False, layout="constrained"
    )
    limit = float(np.abs(values).max())
    for ax in axes.flat[len(setting.shares) :]:
        ax.set_axis_off()
    for ax, share in zip(axes.flat, setting.shares, strict=False):
        image = heat_map(ax, values.xs(share).unstack(), limit=limit, title=f"eps = {share:g} eps*")
    figure.colorbar(image, ax=axes, label="gap of GD - gap of CD, points")
    save(figure, out, name)
    print(values.unstack(0).round(1).to_string())
    return values
