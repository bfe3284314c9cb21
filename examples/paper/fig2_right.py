"""Figure 2, right: for which sparsities of teacher and data, and for which eps, coordinate descent generalises better."""

from heat_maps import heat_map_figure
from linear import FULL, QUICK
from runner import command_line


def make(setting, out, jobs):
    return heat_map_figure(setting, out, jobs, "fig2_right", "robust_gap")


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL)
