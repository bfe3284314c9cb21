"""
A rare class, and probabilities
===============================

One sample in sixteen is positive. Robust training counts samples, as any training does: it gives
the rare class up first. ``class_weight="balanced"`` makes both classes weigh the same, and the
robust accuracy of each class is the figure to judge by. The price is probabilities of the rare
class that are too large. `CalibratedClassifierCV` mends them; with its threshold at the share of
the rare class the classifier decides as before, and its robust accuracy is still exact.
"""

import matplotlib.pyplot as plt
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier, train_test_split

from sklearn_robust import RobustLinearClassifier, robust_accuracy_score

EPS = 0.2
X, y = make_classification(
    6000, 12, n_informative=4, n_redundant=0, weights=[0.94], class_sep=1.2, random_state=1
)
X_train, X_rest, y_train, y_rest = train_test_split(X, y, stratify=y, random_state=0)
X_held, X_test, y_held, y_test = train_test_split(
    X_rest, y_rest, stratify=y_rest, test_size=0.5, random_state=0
)
balanced = RobustLinearClassifier(eps=EPS, loss="logistic", class_weight="balanced")
plain = RobustLinearClassifier(eps=EPS, loss="logistic")
for model in (plain, balanced):
    model.fit(X_train, y_train)
calibrated = CalibratedClassifierCV(FrozenEstimator(balanced), method="sigmoid", ensemble=False)
calibrated.fit(X_held, y_held)
share = y_held.mean()
moved = FixedThresholdClassifier(FrozenEstimator(calibrated), threshold=share).fit(X_held, y_held)
models = {
    "plain": plain,
    "balanced": balanced,
    "balanced, calibrated": calibrated,
    f"calibrated, threshold {share:.2f}": moved,
}

# %%
# Robust accuracy of each class: against a move of 0.2 in every feature the plain classifier loses
# the rare class altogether.

for name, model in models.items():
    clean = [model.score(X_test[y_test == k], y_test[y_test == k]) for k in (0, 1)]
    robust = [
        robust_accuracy_score(model, X_test[y_test == k], y_test[y_test == k], eps=EPS)
        for k in (0, 1)
    ]
    print(f"{name:<26} common {clean[0]:.2f}, robust {robust[0]:.2f};", end=" ")
    print(f"rare {clean[1]:.2f}, robust {robust[1]:.2f}")

# %%
# Probabilities of the rare class before and after calibration, on clean samples.

figure, axis = plt.subplots(layout="constrained")
for name in ("balanced", "balanced, calibrated"):
    CalibrationDisplay.from_estimator(
        models[name], X_test, y_test, n_bins=8, strategy="quantile", name=name, ax=axis
    )
plt.show()
