"""Where an optional dependency is missing the error says what installs it."""

import subprocess
import sys

CODE = """
import sys
MISSING = "dask distributed matplotlib onnx pandas pyarrow rich skl2onnx torch".split()

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
import numpy as np
import sklearn_robust as sr
from sklearn.callback import ProgressBar
from sklearn_robust import distributed
from sklearn_robust._command_line import own_table
X, y = np.array([[3.0, 1.0], [-3.0, 1.0]]), np.array([1, -1])
model = sr.RobustLinearClassifier().fit(X, y)
for use in (
    lambda: distributed.max_margin([X], y=None, q=2),
    lambda: sr.register_onnx_converters(),
    lambda: sr.rows.ParquetRows(sys.executable, label="y"),
    lambda: own_table._read("data.csv", "label", []),
    lambda: sr.RobustMLPClassifier,
    lambda: sr.attacks.pgd,
    lambda: sr.verification,
    lambda: sr.regions,
    lambda: sr.RobustLinearClassifier(device="cpu").fit(X, y),
    lambda: sr.RobustAccuracyDisplay.from_estimator(model, X, y),
    lambda: model.set_callbacks(ProgressBar()).fit(X, y),
):
    try:
        use()
    except (ImportError, own_table.UnsuitableTable) as error:
        print(error)
"""
EXPECTED = """\
sklearn_robust.distributed needs dask and distributed: pip install "sklearn-robust[dask]".
register_onnx_converters needs skl2onnx and onnx: pip install "sklearn-robust[interop]".
ParquetRows needs pyarrow: pip install "sklearn-robust[parquet]".
a table needs pandas: pip install "sklearn-robust[table]".
RobustMLPClassifier needs PyTorch: pip install "sklearn-robust[torch]".
pgd needs PyTorch: pip install "sklearn-robust[torch]".
sklearn_robust.verification needs PyTorch: pip install "sklearn-robust[torch]".
sklearn_robust.regions needs PyTorch: pip install "sklearn-robust[torch]".
device='cpu' needs PyTorch: pip install "sklearn-robust[torch]".
"""


def test_what_is_missing_is_named_with_what_installs_it():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    ours, of_sklearn = run.stdout[: len(EXPECTED)], run.stdout[len(EXPECTED) :].splitlines()
    assert ours == EXPECTED
    assert ["pip install matplotlib" in of_sklearn[0], "rich" in of_sklearn[1]] == [True, True]
