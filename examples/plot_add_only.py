"""
An adversary who can only add
=============================

Software can carry code that does nothing, a form can get another stroke of ink: what is there can
hardly be taken away. Here a forger turns threes into eights by adding ink, up to half of what a
pixel can hold, in as many pixels as he likes; eights are genuine. Three classifiers meet this
forger: scikit-learn's logistic regression, one that is trained against the whole l_inf ball, and
one that knows that ink is only added, and by whom.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from sklearn_robust import RobustLinearClassifier, robust_accuracy_score
from sklearn_robust.threats import Box

X, digit = load_digits(return_X_y=True)
used = (digit == 3) | (digit == 8)
X, y = X[used] / 16, np.where(digit[used] == 3, "forged", "genuine")
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)


def forger(ink):
    """0 <= delta_j <= ink for what he forges, within the limits of a pixel."""
    return Box(0.0, ink, clip=(0, 1)).only("forged")


# %%
# The set is one for each sample, and differs between the classes; training against it is as exact
# as against a ball, and `dual_gap_` certifies it.
models = {
    "LogisticRegression": LogisticRegression(max_iter=1000),
    "the ball of 0.15": RobustLinearClassifier(eps=0.15, loss="logistic", solver="exact"),
    "the forger who adds": RobustLinearClassifier(
        threat=forger(0.5), loss="logistic", solver="exact"
    ),
}
ink = np.linspace(0, 1, 21)
fig, ax = plt.subplots(layout="constrained")
for name, model in models.items():
    model.fit(X_train, y_train)
    curve = [robust_accuracy_score(model, X_test, y_test, threat=forger(much)) for much in ink]
    ax.plot(ink, curve, label=name)
    print(f"{name}: clean {curve[0]:.3f}, against half the ink {curve[10]:.3f}")
print(f"certified gap: {models['the forger who adds'].dual_gap_:.1e}")
ax.set(xlabel="ink that may be added to a pixel", ylabel="exact robust test accuracy")
ax.legend()
plt.show()

# %%
# Where a coefficient is positive, ink speaks for a genuine eight. Without limits to the ink no
# coefficient would be positive: the classifier is monotone then. With half of it a few small ones
# remain.
fig, axes = plt.subplots(1, 3, layout="constrained", figsize=(8, 3))
for ax, (name, model) in zip(axes, models.items(), strict=True):
    coef = model.coef_[0].reshape(8, 8)
    size = np.abs(coef).max() or 1.0
    ax.imshow(coef, cmap="RdBu_r", vmin=-size, vmax=size)
    ax.set_title(name, fontsize="medium")
    ax.set_axis_off()
plt.show()
