"""Figure 3, right: the convolutional network: robust test accuracy of gradient descent less that of
sign descent."""

import matplotlib.pyplot as plt
import numpy as np
from networks import CNN_FULL as FULL
from networks import CNN_QUICK as QUICK
from networks import CNN_REPORTED as REPORTED
from networks import GD, SD, comparison, run
from runner import command_line, heat_map, save


def make(setting, out, jobs):
    compared = comparison(run(setting, out, jobs))
    by_algorithm = compared.pivot_table(
        index=["eps", "n_samples"], columns="algorithm", values=["last", "strong attack"]
    )
    difference = by_algorithm.xs(GD, axis=1, level=1) - by_algorithm.xs(SD, axis=1, level=1)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    limit = max(float(np.abs(difference).to_numpy().max()), 1.0)
    for ax, column in zip(axes, difference.columns, strict=True):
        image = heat_map(
            ax,
            difference[column].unstack(),
            limit=limit,
            title=f"{column}, mean of {setting.n_seeds} seeds",
        )
    figure.colorbar(image, ax=axes, label="GD - SD, points")
    save(figure, out, "fig3_right")
    print(difference.round(1).to_string())
    return compared


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL, reported=REPORTED)
