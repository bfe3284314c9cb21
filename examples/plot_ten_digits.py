"""
Images: the least change that turns a digit into another
========================================================

Ten classes are one problem: the adversary picks the rival, in training as in scores. For a linear
classifier the least change of an image that turns its class is known exactly: its length is the
certified radius, and `worst_case_samples` makes it. Here it is drawn for the same four images and
two classifiers, one trained as usual and one against changes of Euclidean length up to 1, of images
whose pixels lie between 0 and 1.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from sklearn_robust import RobustLinearClassifier, certified_radius, robust_accuracy_score
from sklearn_robust.metrics import worst_case_samples
from sklearn_robust.threats import LpBall

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, stratify=y, random_state=0)
models = {
    "usual": LogisticRegression().fit(X_train, y_train),
    "robust": RobustLinearClassifier(eps=1.0, q_pert=2, loss="logistic").fit(X_train, y_train),
}
for name, model in models.items():
    exact = [robust_accuracy_score(model, X_test, y_test, eps=eps, q=2) for eps in (0, 0.5, 1)]
    print(f"{name:<7} accuracy {exact[0]:.2f}, under eps = 0.5 {exact[1]:.2f}, 1 {exact[2]:.2f}")

# %%
# The radii of all test images: 0 where the prediction is wrong already.

radii = {name: certified_radius(model, X_test, y_test, q=2) for name, model in models.items()}
figure, axis = plt.subplots(layout="constrained")
for name, radius in radii.items():
    axis.ecdf(np.maximum(radius, 0), label=name)
axis.set(xlabel="certified radius, q = 2", ylabel="share of test images")
axis.legend()

# %%
# An image, the same image just beyond its radius, and what that is taken for.

right = [model.predict(X_test) == y_test for model in models.values()]
chosen = [np.flatnonzero(np.all(right, axis=0) & (y_test == digit))[0] for digit in (0, 3, 7, 9)]
figure, axes = plt.subplots(3, 4, figsize=(7, 5.6), layout="constrained")
for column, i in enumerate(chosen):
    image, label = X_test[i : i + 1], y_test[i : i + 1]
    axes[0, column].imshow(image.reshape(8, 8), cmap="Greys", vmin=0, vmax=1)
    axes[0, column].set_title(f"a {label[0]}")
    for row, (name, model) in zip(axes[1:], models.items(), strict=True):
        radius = 1.001 * radii[name][i]
        turned = worst_case_samples(model, image, label, threat=LpBall(2, radius))
        row[column].imshow(turned.reshape(8, 8), cmap="Greys", vmin=0, vmax=1)
        row[column].set_title(f"{name}: {radius:.2f}, a {model.predict(turned)[0]}", fontsize=9)
for axis in axes.flat:
    axis.axis("off")
plt.show()

# sphinx_gallery_thumbnail_number = 2
