"""One network trained by several processes, each on samples of its own."""

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

SCRIPT = Path(__file__).parent / "ranks_script.py"
spec = importlib.util.spec_from_file_location("ranks_script", SCRIPT)
ranks_script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ranks_script)


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(tmp_path):
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*run, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    for name in ranks_script.RUNS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            alone = ranks_script.figures(ranks_script.fitted(name, slice(None), random_state=0))
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], alone, rtol=1e-9, atol=1e-12, err_msg=name)
