"""Figure 2, left: sparse teacher, dense data. Coordinate descent is ahead without an adversary, and
more so with one."""

from gaps import gap_figure
from linear import FULL, QUICK
from runner import command_line


def make(setting, out, jobs):
    panels = {"sparse teacher, dense data": (setting.sparse, setting.dense, "redraw")}
    return gap_figure(setting, out, jobs, "fig2_left", panels, (0.0, 0.25, 0.5))


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL)
