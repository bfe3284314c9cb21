"""Figure 3, left: fully connected networks, MNIST 2 against 7, trained by gradient descent and by
sign descent."""

from along_training import training_figure
from networks import MLP_FULL as FULL
from networks import MLP_QUICK as QUICK
from networks import MLP_REPORTED as REPORTED
from runner import command_line


def make(setting, out, jobs):
    samples, radii = setting.samples[-1:], setting.radii[:2]
    return training_figure(setting, out, jobs, "fig3_left", samples=samples, radii=radii)


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL, reported=REPORTED)
