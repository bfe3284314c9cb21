"""Figure 1, bottom: dense teacher, dense data. Without an adversary the algorithms generalise
alike; with one, gradient descent
pays for its implicit bias."""

from gaps import gap_figure
from linear import FULL, QUICK
from runner import command_line


def make(setting, out, jobs):
    panels = {"dense, dense": (setting.dense, setting.dense, "redraw")}
    return gap_figure(setting, out, jobs, "fig1_bottom", panels, (0.0, 0.25, 0.5))


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL)
