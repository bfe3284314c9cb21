"""Where an optional dependency, or a part of Python, is missing."""

import subprocess
import sys

from sklearn_robust._documentation import see

CODE = """
import sys
MISSING = "clarabel dask distributed matplotlib onnx pandas pyarrow rich skl2onnx torch".split()

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
import numpy as np
import sklearn_robust as sr
from sklearn_robust import distributed
from sklearn_robust._command_line import own_table
X, y = np.array([[3.0, 1.0], [-3.0, 1.0]]), np.array([1, -1])
model = sr.RobustLinearClassifier().fit(X, y)


def progress():
    from sklearn.callback import ProgressBar
    model.set_callbacks(ProgressBar()).fit(X, y)


for use in (
    lambda: sr.max_margin(X, y, threat=sr.threats.FeatureBudget(1, 0.1)),
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
    progress,
):
    try:
        use()
    except (ImportError, own_table.UnsuitableTable) as error:
        print(error)
"""
EXPECTED = """\
This answer is that of a program over cones, which needs clarabel: pip install clarabel. SEE
sklearn_robust.distributed needs dask and distributed: pip install "sklearn-robust[dask]". SEE
register_onnx_converters needs skl2onnx and onnx: pip install "sklearn-robust[interop]". SEE
ParquetRows needs pyarrow: pip install "sklearn-robust[parquet]". SEE
a table needs pandas: pip install "sklearn-robust[table]". SEE
RobustMLPClassifier needs PyTorch: pip install "sklearn-robust[torch]". SEE
pgd needs PyTorch: pip install "sklearn-robust[torch]". SEE
sklearn_robust.verification needs PyTorch: pip install "sklearn-robust[torch]". SEE
sklearn_robust.regions needs PyTorch: pip install "sklearn-robust[torch]". SEE
device='cpu' needs PyTorch: pip install "sklearn-robust[torch]". SEE
""".replace("SEE", see("install"))


def test_what_is_missing_is_named_with_what_installs_it():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    ours, of_sklearn = run.stdout[: len(EXPECTED)], run.stdout[len(EXPECTED) :].splitlines()
    assert ours == EXPECTED
    assert "pip install matplotlib" in of_sklearn[0]
    assert "rich" in of_sklearn[1] or "sklearn.callback" in of_sklearn[1]


IN_A_BROWSER = """
import sys
import threading


class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("clarabel", "torch", "dask", "pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def no_threads(thread):
    raise RuntimeError("can't start new thread")


sys.meta_path.insert(0, Nothing())
threading.Thread.start = no_threads
import numpy as np
import sklearn_robust as sr
X, y = sr.make_teacher_classification(40, 60, random_state=0)
noisy, classes = np.where(np.arange(40) % 5 == 0, -y, y), np.arange(40) % 3
ball, BOX = {"q": np.inf, "eps": 0.1}, sr.threats.Box(0, 0.5)
gaps = [
    sr.RobustLinearClassifier(eps=0.1, loss_tol=0, tol=0.1).fit(X, y).dual_gap_,
    sr.RobustLinearClassifier(eps=0.3, loss="logistic").fit(X, noisy).dual_gap_,
    sr.RobustLinearClassifier(eps=0.5, loss="logistic").fit(X, classes).dual_gap_,
    sr.RobustLinearClassifier(threat=BOX, loss="logistic").fit(X, noisy).dual_gap_,
    *(sr.min_norm_separator(X, y, p=p, **ball).relative_gap for p in (1, 1.5, 2, np.inf)),
    *(sr.max_margin(X, y, q=q).relative_gap for q in (1, 2, np.inf)),
]
print(max(gaps) <= 0.1, sr.RobustLinearClassifier(eps=0.1).fit(X, y).certificate_.kind)
"""


def test_linear_models_need_neither_threads_nor_clarabel():
    run = [sys.executable, "-W", "error", "-c", IN_A_BROWSER]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == "True margin\n"
