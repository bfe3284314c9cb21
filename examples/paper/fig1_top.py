"""Figure 1, top: the separator with the largest l2 distance is not the one that withstands an l_inf
adversary.

Two features, few samples. Both separators are exact; the robust error is over fresh samples, each
with its l_inf box.
"""

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle
from runner import command_line, save

from sklearn_robust import max_margin, min_norm_separator
from sklearn_robust.threats import LpBall

TEACHER = np.array([1.0, 0.0])  # the first feature decides


@dataclass(frozen=True)
class Setting:
    n_samples: int = 6
    n_draws: int = 500
    n_test: int = 10_000
    eps: float = 0.5


QUICK, FULL = Setting(), Setting(n_draws=5000)


def make(setting, out, jobs):
    """Robust test accuracy of both separators over many draws, and a picture of one draw."""
    table = pd.DataFrame([compare(setting, draw) for draw in range(setting.n_draws)])
    print((100 * table.drop(columns="draw")).agg(["mean", "sem"]).round(1).to_string())
    shown = table.iloc[(table["l_inf margin"] - table["l2 margin"]).argmax()]
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained", sharey=True)
    X, y = sample(setting.n_samples, int(shown.draw))
    X_test, y_test = sample(40, int(shown.draw), role=1)
    for ax, (name, coef) in zip(axes, separators(X, y).items(), strict=True):
        title = f"largest {name}: {100 * shown[name]:.0f} % robust"
        ax.set(title=title, xlim=(-4, 4), ylim=(-3, 3), aspect="equal", xlabel="$x_1$")
        ax.axline((0, 0), (-coef[1], coef[0]), color="black")
        for points, labels, marker, alpha in ((X, y, "o", 1.0), (X_test, y_test, "*", 0.4)):
            for label, colour in ((-1, "C3"), (1, "C0")):
                ax.scatter(*points[labels == label].T, marker=marker, color=colour, alpha=alpha)
        for point, label in zip(X_test, y_test, strict=True):
            corner, width = point - setting.eps, 2 * setting.eps
            ax.add_patch(
                Rectangle(
                    corner, width, width, fill=False, color="C3" if label < 0 else "C0", alpha=0.25
                )
            )
    axes[0].set_ylabel("$x_2$")
    save(figure, out, "fig1_top")
    return table


def compare(setting, draw):
    """Robust test accuracy of the two separators of one draw."""
    X, y = sample(setting.n_samples, draw)
    X_test, y_test = sample(setting.n_test, draw, role=1)
    threat = LpBall(math.inf, setting.eps)
    scores = {
        name: np.mean(y_test * (X_test @ w) > threat.penalty(w))
        for name, w in separators(X, y).items()
    }
    return {"draw": draw, **scores}


def separators(X, y):
    """Through the origin, exact."""
    l2 = min_norm_separator(X, y, p=2, q=math.inf, eps=0.0)
    return {"l2 margin": l2.coef, "l_inf margin": max_margin(X, y, q=math.inf).coef}


def sample(n, draw, role=0):
    """Two classes a distance apart in the first feature, spread in the second."""
    rng = np.random.default_rng((draw, role))
    y = rng.permutation(np.where(np.arange(n) < n // 2, -1, 1))
    return y[:, None] * TEACHER * rng.uniform(0.8, 3.0, (n, 1)) + np.outer(
        rng.uniform(-2.5, 2.5, n), [0, 1]
    ), y


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL)
