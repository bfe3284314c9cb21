"""Figure 7: as Figure 3 left, for every eps, number of samples and scale of the initial weights."""

from along_training import training_figure
from networks import MLP_FULL as FULL
from networks import MLP_QUICK as QUICK
from networks import MLP_REPORTED as REPORTED
from runner import command_line


def make(setting, out, jobs):
    return training_figure(setting, out, jobs, "fig7")


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL, reported=REPORTED)
