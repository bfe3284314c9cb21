"""Figure 2, right: for which sparsities of teacher and data, and for which eps, coordinate descent
generalises better.

A second figure follows dense teacher and data up to eps*, where all algorithms end at one
separator.
"""

import matplotlib.pyplot as plt
import numpy as np
from heat_maps import heat_map_figure
from linear import CD, FULL, GD, L1_LIMIT, L2_LIMIT, QUICK, run
from runner import command_line, curve, save


def make(setting, out, jobs):
    values = heat_map_figure(setting, out, jobs, "fig2_right", "robust_gap")
    return values, rise_and_fall(setting, out, jobs)


def rise_and_fall(setting, out, jobs):
    """Robust test accuracy of CD less that of GD against eps, for the fewest samples; prints and
    returns it."""
    table = run(
        setting,
        out,
        jobs,
        distributions=[(setting.dense, setting.dense)],
        algorithms=[CD, GD, L1_LIMIT, L2_LIMIT],
        shares=(*setting.shares, 0.98),
        samples=setting.samples[:1],
    )
    accuracy = 100 * table.pivot_table(
        index=["share", "draw"], columns="algorithm", values="robust_test_accuracy"
    )
    lead = {
        "trained": accuracy[CD] - accuracy[GD],
        "exact limits": accuracy[L1_LIMIT] - accuracy[L2_LIMIT],
    }
    figure, ax = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for (name, values), style in zip(lead.items(), ("-", ":"), strict=True):
        curve(
            ax,
            values.rename("lead").reset_index(),
            "share",
            "lead",
            label=name,
            marker="o",
            linestyle=style,
        )
    ax.axhline(0, color="black", linewidth=0.5)
    ax.set(
        xlabel="eps / eps*", ylabel="robust test accuracy\nof CD (p = 1) less GD (p = 2), points"
    )
    ax.legend()
    save(figure, out, "fig2_right_eps")
    for name, values in lead.items():
        print(
            name,
            values.groupby("share").agg(["mean", "min", "max"]).round(1).T.to_string(),
            sep="\n",
        )
    return {name: values.groupby("share").apply(np.mean) for name, values in lead.items()}


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL)
