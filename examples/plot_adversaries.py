"""
What can your adversary do?
===========================

Nine sets of perturbations in the plane, and the points of them that do most harm. A linear
classifier sees the hull of a set: the shaded area, drawn from the worst points in all directions.
Where the set itself is smaller, as where one feature changes at a time, it is drawn in black. The
arrow is the worst case for a classifier whose weights point along the dashed line.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_robust import threats
from sklearn_robust.threats import Box, Ellipsoid, FeatureBudget, LinearImage, LpBall, Relations

SETS = {
    "every feature, a little\nLpBall(inf, 0.5)": LpBall(np.inf, 0.5),
    "one further than the other\nLpBall(2, 0.6, scale=[1, 0.4])": LpBall(2, 0.6, [1.0, 0.4]),
    "they only grow\nBox(0, [0.8, inf])": Box(0, [0.8, np.inf]),
    "within limits\nLpBall(2, 0.6, clip=(0, 1))": LpBall(2, 0.6, clip=(0, 1)),
    "one feature at a time\nFeatureBudget(1, 0.6)": FeatureBudget(1, 0.6),
    "correlated noise\nEllipsoid([[0.3, 0.2], [0.2, 0.2]])": Ellipsoid([[0.3, 0.2], [0.2, 0.2]]),
    "the sum grows by 0.2 at most\nRelations(Box(-0.6, 0.6), [[1, 1]], 0.2)": Relations(
        Box(-0.6, 0.6), [[1, 1]], 0.2
    ),
    "this or that\nBox(0, [0.8, 0.2]) | Box(-0.4, 0)": Box(0, [0.8, 0.2]) | Box(-0.4, 0),
    "a trend and noise\nLinearImage(...) + LpBall(2, 0.2)": LinearImage(
        LpBall(np.inf, 0.5), [[1.0], [0.6]]
    )
    + LpBall(2, 0.2),
}
WEIGHTS = np.array([1.0, 0.5])
SAMPLE = np.array([0.8, 0.3])  # limits are those of this sample
angles = np.linspace(0, 2 * np.pi, 721)
directions = np.column_stack([np.cos(angles), np.sin(angles)])

# %%
# A set without bound is cut off where the picture ends.

figure, axes = plt.subplots(3, 3, figsize=(9, 9), sharex=True, sharey=True, layout="constrained")
for axis, (title, threat) in zip(axes.flat, SETS.items(), strict=True):
    cut = threats.bind(threat, 2) & Box(-1, 1) if "inf])" in title else threat
    of_sample = threats.at(threats.bind(cut, 2), SAMPLE)
    hull = np.array([of_sample.worst(v) for v in directions])
    axis.fill(*hull.T, alpha=0.3)
    if isinstance(threat, FeatureBudget):
        axis.plot([-0.6, 0.6], [0, 0], "k", [0, 0], [-0.6, 0.6], "k", lw=3)
    axis.axline((0, 0), WEIGHTS, color="grey", ls="--", lw=0.8)
    worst = of_sample.worst(WEIGHTS)
    axis.annotate("", worst, (0, 0), arrowprops={"arrowstyle": "->", "color": "C3", "lw": 2})
    axis.set(title=title, xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
    axis.title.set_fontsize(8)
plt.show()
