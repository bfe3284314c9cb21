"""Figure 8: the convolutional network along training, for every number of samples and eps."""

from along_training import training_figure
from networks import CNN_FULL as FULL
from networks import CNN_QUICK as QUICK
from networks import CNN_REPORTED as REPORTED
from runner import command_line


def make(setting, out, jobs):
    return training_figure(setting, out, jobs, "fig8")


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL, reported=REPORTED)
