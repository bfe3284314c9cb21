"""
Which separator is robust?
==========================

Two features, eight samples, and an adversary who moves every sample inside a square (q = inf). A
line classifies a sample robustly if it does not touch the square. Many lines touch none: the one of
least 1-norm, 2-norm or inf-norm is where coordinate, gradient or sign descent ends. Against a small
adversary they differ; large squares leave room for one line only.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_robust import SeparatorDisplay, max_margin

# %%
# The first feature decides, the second is noise.
X = np.array(
    [
        [1.7, -0.3],
        [1.1, -0.1],
        [2.2, -1.6],
        [2.0, -1.9],
        [-2.7, 1.0],
        [-0.7, 0.7],
        [-2.4, -0.4],
        [-1.7, 0.1],
    ]
)
y = np.array([1, 1, 1, 1, 0, 0, 0, 0])
eps_star = max_margin(X, y, q=np.inf, fit_intercept=True).margin

# %%
# The exact separators at a fifth and at nine tenths of the largest radius at which there is one.
fig, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
for ax, share in zip(axes, (0.2, 0.9), strict=True):
    display = SeparatorDisplay.from_data(X, y, q=np.inf, eps=share * eps_star, ax=ax)
    ax.set_title(f"eps = {share:g} eps*")
    slopes = np.degrees(np.arctan2(display.coef[:, 1], display.coef[:, 0]))
    print(f"eps = {share:g} eps*: angles to the first axis", slopes.round(1))
plt.show()
