"""
Prediction sets that hold under attack
======================================

A conformal prediction set holds the true class of nine samples in ten, whatever the classifier is
worth. An adversary breaks that: sets of clean scores lose the classes of the samples that
are moved. `RobustConformalSets` mends it, by sets that are larger by exactly what the adversary can
do to a linear score. Both are measured on attacked test samples, over thirty random splits of the
wine data.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from sklearn_robust.conformal import RobustConformalSets
from sklearn_robust.metrics import worst_case_samples
from sklearn_robust.threats import LpBall

X, y = load_wine(return_X_y=True)
X = scale(X)
radii = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
coverage, size = np.zeros((2, 2, len(radii)))
SPLITS = 30
for seed in range(SPLITS):
    X_train, X_rest, y_train, y_rest = train_test_split(
        X, y, stratify=y, test_size=0.6, random_state=seed
    )
    X_held, X_test, y_held, y_test = train_test_split(
        X_rest, y_rest, stratify=y_rest, test_size=0.5, random_state=seed
    )
    model = LogisticRegression().fit(X_train, y_train)
    for column, eps in enumerate(radii):
        attacked = worst_case_samples(model, X_test, y_test, threat=LpBall(np.inf, eps))
        for row, known in enumerate((0.0, eps)):
            sets = RobustConformalSets(model, eps=known).conformalize(X_held, y_held)
            held = sets.predict_set(attacked)
            coverage[row, column] += held[np.arange(len(y_test)), y_test].mean() / SPLITS
            size[row, column] += held.sum(axis=1).mean() / SPLITS

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for row, name in enumerate(("sets of clean scores", "robust sets")):
    axes[0].plot(radii, coverage[row], marker="o", label=name)
    axes[1].plot(radii, size[row], marker="o", label=name)
axes[0].axhline(0.9, color="grey", linewidth=1)
axes[0].set(xlabel="eps of the adversary", ylabel="share of classes held", ylim=(0, 1.02))
axes[1].set(xlabel="eps of the adversary", ylabel="classes in a set", ylim=(0, None))
axes[0].legend()
plt.show()
