"""Figure 5: as Figure 2 left for sparse data, with a dense and with a sparse teacher.

With both sparse nearly every sample is a tie, <w*, x> = 0. Drawing ties again and labelling them
negative, as the public script of the paper does, make two different tasks of it: both are shown.
"""

from gaps import gap_figure
from linear import FULL, QUICK
from runner import command_line


def make(setting, out, jobs):
    panels = {
        "dense teacher, sparse data": (setting.dense, setting.sparse, "redraw"),
        "sparse, sparse, ties redrawn": (setting.sparse, setting.sparse, "redraw"),
        "sparse, sparse, ties negative": (setting.sparse, setting.sparse, "negative"),
    }
    return gap_figure(setting, out, jobs, "fig5", panels, (0.0, 0.25, 0.5))


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL)
