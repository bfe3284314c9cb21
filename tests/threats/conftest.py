"""The random sets of benchmarks/threat_soak.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "threat_soak.py"


def load():
    """The script as a module."""
    if "threat_soak" not in sys.modules:
        spec = importlib.util.spec_from_file_location("threat_soak", FILE)
        sys.modules["threat_soak"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["threat_soak"])
    return sys.modules["threat_soak"]


@pytest.fixture(scope="session")
def soak():
    return load()
