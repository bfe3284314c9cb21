"""The network experiments of the paper (section 5.2, appendix F.2): training against PGD, followed
along the way.

Every run is one network on a random subset of the training images: gradient descent (p = 2) or sign
descent (p = inf), full batch, the inner maximum by ten steps of projected ascent inside ball and
pixel box, steps on the log of the robust risk. Along the way the same attack judges test images; at
the last epoch, and at the one that was best on them, a strong attack bounds the robust accuracy
from above and a certificate from below.
"""

import copy
import functools
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from images import load_images
from runner import cells, fill
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust import RobustMLPClassifier, RobustNetClassifier
from sklearn_robust.neural_network import madry_cnn

GD, SD = "gradient descent", "sign descent"
RUN = ["n_samples", "eps", "init_scale", "seed", "algorithm"]


@dataclass(frozen=True)
class Setting:
    """The size of a run; with channels a convolutional network for all ten digits, else a fully
    connected one for 2 and 7."""

    name: str
    samples: tuple
    radii: tuple
    n_seeds: int
    max_epochs: int
    every: int  # epochs between looks at the test images
    width: int
    channels: tuple | None = None
    init_scales: tuple = (1.0,)
    rates: tuple = ("auto", "auto")  # of gradient descent and of sign descent
    # whether they are multiplied by the loss of the last look, where that is below 1
    rates_fall: bool = False
    n_followed: int = 500  # test images along the way
    n_judged: int = 500  # test images for the strong attack and the certificate
    loss_tol: float = 1e-3
    device: str | None = None
    mnist: Path | None = None


MLP_QUICK = Setting(
    "mlp_quick",
    (100,),
    (0.0, 0.15),
    1,
    300,
    50,
    width=100,
    init_scales=(0.3,),
    n_followed=200,
    n_judged=100,
    loss_tol=1e-2,
)
MLP_REPORTED = Setting(
    "mlp_reported",
    (100,),
    (0.0, 0.15, 0.2),
    3,
    1500,
    50,
    width=200,
    init_scales=(0.01, 0.3),
    loss_tol=1e-2,
)
MLP_FULL = Setting(
    "mlp_full",
    (100, 250),
    (0.0, 0.2, 0.3),
    3,
    12_000,
    100,
    width=784,
    init_scales=(0.01, 0.3),
    n_followed=2060,
    n_judged=2060,
)
# the automatic rate of gradient descent leaves this network near its start for long; on the
# log-risk, a constant rate breaks it down near a loss of zero: these rates fall with the loss, as
# the paper's constant rate on the loss itself does
CNN_RATES = (0.1, 1e-3)
CNN_REPORTED = Setting(
    "cnn_reported",
    (100,),
    (0.0, 0.1, 0.2),
    3,
    1000,
    20,
    width=128,
    channels=(8, 16),
    rates=CNN_RATES,
    rates_fall=True,
    n_followed=300,
    n_judged=100,
    loss_tol=1e-2,
)
CNN_QUICK = replace(
    CNN_REPORTED,
    name="cnn_quick",
    radii=(0.0, 0.1),
    n_seeds=1,
    max_epochs=280,
    channels=(4, 8),
    width=64,
)
CNN_FULL = Setting(
    "cnn_full",
    (100, 500, 1000, 5000),
    (0.0, 0.1, 0.2, 0.3),
    3,
    2000,
    20,
    width=1024,
    channels=(32, 64),
    rates=CNN_RATES,
    rates_fall=True,
    n_followed=2000,
    n_judged=1000,
    device="auto",
)


def run(setting, out, jobs):
    """The rows of all runs: one for each look along the way, and one each for the last and the best
    epoch, well judged."""
    images = load_images(setting.mnist)
    wanted = cells(
        n_samples=setting.samples,
        eps=setting.radii,
        init_scale=setting.init_scales,
        seed=range(setting.n_seeds),
        algorithm=(GD, SD),
    )
    path = out / f"{setting.name}_{images[-1]}.csv"
    return fill(path, wanted, RUN, functools.partial(results, setting, images[:-1]), jobs=jobs)


def results(setting, images, wanted):
    """Train one network and judge it."""
    cell = wanted.iloc[0].to_dict()
    X, y, X_test, y_test = chosen(setting, images, cell)
    model = classifier(setting, cell, X.shape[1])
    followed, judged = slice(setting.n_followed), slice(setting.n_judged)
    rows, epoch, best = [], 0, (None, None)
    while epoch < setting.max_epochs:
        if setting.rates_fall and rows:
            model.set_params(
                learning_rate=setting.rates[cell["algorithm"] == SD] * min(1.0, rows[-1]["loss"])
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the fit goes on in the next turn
            model.fit(X, y)
        epoch += model.n_iter_
        last = {
            **cell,
            "moment": "along the way",
            "epoch": epoch,
            "loss": model.loss_,
            "train_accuracy": model.history_["accuracy"][-1],
            "robust_train_accuracy": model.history_["robust_accuracy"][-1],
            "test_accuracy": model.score(X_test[followed], y_test[followed]),
            "robust_test_accuracy": model.robust_score(
                X_test[followed], y_test[followed], attack="pgd", n_steps=10
            ),
        }
        rows.append(last)
        if best[0] is None or last["robust_test_accuracy"] > best[0]["robust_test_accuracy"]:
            best = last, copy.deepcopy(model)
        if model.loss_ < setting.loss_tol or not math.isfinite(model.loss_):
            break
    # crown takes minutes through convolutions
    method = "crown" if setting.channels is None else "crown-ibp"
    attack = {"attack": "apgd", "n_restarts": 2}  # of 100 steps
    for moment, (row, network) in (("last", (last, model)), ("best", best)):
        certified, attacked = network.robust_bounds(
            X_test[judged], y_test[judged], method=method, **attack
        )
        on_train = network.robust_score(X, y, **attack)
        strong = {"certified": certified, "attacked": attacked, "attacked_train": on_train}
        rows.append({**row, "moment": moment, **strong})
    return pd.DataFrame(rows)


def classifier(setting, cell, n_pixels):
    p = {GD: 2, SD: math.inf}[cell["algorithm"]]
    rate = setting.rates[cell["algorithm"] == SD]
    # the paper trains on all samples at once, without momentum, at a rate that does not fall
    options = {
        "eps": cell["eps"],
        "learning_rate": rate,
        "schedule": "curvature" if rate == "auto" else "constant",
        "optimizer_params": {"normalized": p > 2, "momentum": 0.0},
        "batch_size": None,
        "clip": (0, 1),
        "max_iter": setting.every,
        "loss_tol": setting.loss_tol,
        "warm_start": True,
        "random_state": int(cell["seed"]),
        "device": setting.device,
    }
    if setting.channels is None:
        return RobustMLPClassifier(
            (setting.width,),
            p,
            bias=False,
            init_scale=cell["init_scale"],
            loss="exponential",
            standardize=False,
            **options,
        )
    module = functools.partial(
        madry_cnn, channels=setting.channels, width=setting.width, init_scale=cell["init_scale"]
    )
    side = math.isqrt(n_pixels)
    return RobustNetClassifier(
        module, p, input_shape=(1, side, side), loss="cross_entropy", **options
    )


def chosen(setting, images, cell):
    """The random training subset of a seed, balanced, and the test images of the same digits in
    random order."""
    X, y, X_test, y_test = images
    digits = (2, 7) if setting.channels is None else tuple(range(10))
    rng = np.random.default_rng(int(cell["seed"]))
    share = int(cell["n_samples"]) // len(digits)
    rows = np.concatenate([rng.permutation(np.flatnonzero(y == digit))[:share] for digit in digits])
    tested = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(y_test, digits)))
    return X[rows], y[rows], X_test[tested], y_test[tested]


def comparison(table):
    """Accuracies in % of both algorithms at the last epoch, at the best one, and at equal loss: one
    row for each run.

    Equal loss: for each run the first look at which its loss is no greater than the larger of both
    final losses.
    """
    setting = ["n_samples", "eps", "init_scale", "seed"]
    rows = []
    for key, pair in table.groupby(setting):
        last = pair[pair.moment == "last"].set_index("algorithm")
        best = pair[pair.moment == "best"].set_index("algorithm")
        along = pair[(pair.moment == "along the way") & (pair.loss <= last.loss.max())]
        equal = along.sort_values("epoch").groupby("algorithm").first()
        for algorithm in (GD, SD):
            rows.append(
                {
                    **dict(zip(setting, key, strict=True)),
                    "algorithm": algorithm,
                    "epoch": last.epoch[algorithm],
                    "loss": last.loss[algorithm],
                    "train": 100 * last.robust_train_accuracy[algorithm],
                    "train, strong attack": 100 * last.attacked_train[algorithm],
                    "clean": 100 * last.test_accuracy[algorithm],
                    "last": 100 * last.robust_test_accuracy[algorithm],
                    "best": 100 * best.robust_test_accuracy[algorithm],
                    "equal loss": 100 * equal.robust_test_accuracy[algorithm],
                    "strong attack": 100 * last.attacked[algorithm],
                    "certified": 100 * last.certified[algorithm],
                }
            )
    return pd.DataFrame(rows)
