"""
Who can tamper with what
========================

A forger sells wine under the name of a better grower. Colour, hue, acid and alcohol are easy to
change; what the other laboratory measurements see is not. A scale for each feature says so: 1 for
what the forger can move, by eps standard deviations, and 0 for what is out of reach. Three
classifiers meet this forger: one trained without an adversary, one trained against an adversary who
can move every measurement half as far, and one that knows who can tamper with what.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import RobustLinearClassifier, robust_accuracy_score

X, y = load_wine(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)
forged = ["alcohol", "malic_acid", "color_intensity", "hue"]
scale = {name: float(name in forged) for name in X.columns}

# %%
# The scaler keeps the names of the columns, so that `scale` can name the features behind it.


def trained(eps, scale=None):
    scaler = StandardScaler().set_output(transform="pandas")
    return make_pipeline(scaler, RobustLinearClassifier(eps=eps, scale=scale, loss="logistic")).fit(
        X_train, y_train
    )


models = {
    "no adversary": trained(0.0),
    "an adversary who moves everything, half as far": trained(0.5),
    "the forger, who moves four of thirteen": trained(1.0, scale),
}

# %%
# Robust accuracy against the forger is exact for all three. Against an adversary who moves
# everything by one standard deviation there is nothing to learn, no measurement is safe from him
# (such a fit warns); half as far leaves little to hold against the forger. Ignoring him costs a
# third of the wines. The classifier that knows which measurements to trust pays a few points of
# clean accuracy, and hardly any beyond.
radii = np.linspace(0, 2, 21)
fig, ax = plt.subplots(layout="constrained")
for colour, (name, model) in zip(("C0", "C1", "C2"), models.items(), strict=True):
    curve = [robust_accuracy_score(model, X_test, y_test, eps=eps, scale=scale) for eps in radii]
    ax.plot(radii, curve, colour, label=name)
    print(f"{name}: clean {curve[0]:.2f}, at eps=1 {curve[10]:.2f}")
ax.set(
    xlabel="eps of the forger, standard deviations",
    ylabel="exact robust test accuracy",
    ylim=(0, 1.02),
)
ax.legend()
plt.show()

# %%
# How the weight of the coefficients, over the three one-against-rest problems, moves to what is out
# of the forger's reach.
width = 0.4
fig, ax = plt.subplots(layout="constrained")
for shift, colour, (name, model) in zip(
    (-width / 2, width / 2), ("C0", "C2"), list(models.items())[::2], strict=True
):
    weight = np.abs(model[-1].coef_).sum(axis=0)
    ax.barh(
        np.arange(X.shape[1]) + shift, weight / weight.sum(), height=width, color=colour, label=name
    )
ax.set_yticks(
    range(X.shape[1]),
    [f"{name} (forged)" if name in forged else name for name in X.columns],
    fontsize="small",
)
ax.set(xlabel="share of the coefficients' sizes")
ax.locator_params(axis="x", nbins=5)
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)  # above the bars
plt.show()
