"""
Pixels have limits
==================

A pixel that is black cannot become blacker. An l_inf adversary without limits moves it all the
same: much of the ball around an image is no image. With ``clip=(0, 1)`` the adversary keeps to what
exists, in training and in scores, exactly. Threes and eights of the digits data, most of whose
pixels are blank or full, show how much that is.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklearn_robust import RobustLinearClassifier, robust_accuracy_score
from sklearn_robust.threats import LpBall

X, y = load_digits(return_X_y=True)
used = (y == 3) | (y == 8)
X_train, X_test, y_train, y_test = train_test_split(X[used] / 16, y[used], random_state=0)

# %%
# The share of the ball's width that leads out of [0, 1], over all pixels.
for eps in (0.1, 0.2, 0.3):
    inside = np.minimum(eps, X_test) + np.minimum(eps, 1 - X_test)
    print(f"eps={eps}: {1 - inside.mean() / (2 * eps):.0%} of the width of the ball is impossible")

# %%
# One classifier trains against the ball, the other against what is left of it in [0, 1]; both meet
# the adversary who draws images.
options = {"loss": "logistic", "solver": "exact"}
radii = np.linspace(0, 0.4, 17)
curves = {}
for name, clip in (("trained without limits", None), ("trained with clip=(0, 1)", (0, 1))):
    model = RobustLinearClassifier(eps=0.2, clip=clip, **options).fit(X_train, y_train)
    curves[name] = [
        robust_accuracy_score(model, X_test, y_test, threat=LpBall(np.inf, eps, clip=(0, 1)))
        for eps in radii
    ]
    print(f"{name}: {curves[name][8]:.3f} against images at eps=0.2")

fig, ax = plt.subplots(layout="constrained")
for name, curve in curves.items():
    ax.plot(radii, curve, label=name)
ax.axvline(0.2, color="0.7", linewidth=1)
ax.set(xlabel="eps of the adversary within [0, 1]", ylabel="exact robust test accuracy")
ax.legend()
plt.show()
