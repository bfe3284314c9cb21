"""Every example runs, without a display and without a warning."""

import runpy
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("plot_*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path):
    mpl.use("agg")
    runpy.run_path(str(path))
    assert plt.get_fignums()
    plt.close("all")


def test_there_are_examples():
    assert EXAMPLES
