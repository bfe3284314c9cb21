"""Figure 6: as Figure 2 right, judged without adversary: what robust training with each algorithm
does to clean accuracy."""

from heat_maps import heat_map_figure
from linear import FULL, QUICK
from runner import command_line


def make(setting, out, jobs):
    return heat_map_figure(setting, out, jobs, "fig6", "clean_gap")


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL)
