"""
The price of implicit bias
==========================

Steepest descent in the p-norm on the robust risk separates the training data for every p. Which
separator it tends to, and how robust that one is on unseen data, depends on p. Here the truth is
sparse and the adversary moves every feature (q = inf): coordinate descent (p = 1) pays least, sign
descent (p = inf) most, and the price grows with eps.

The exact minimum-norm separators, from linear and quadratic programs, show that it is the limit
that differs, not the training.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_robust import RobustLinearClassifier, make_teacher_classification, max_margin

# %%
# Few samples, many features, a teacher with about four non-zero weights; training and test samples
# are independent.
X, y, teacher = make_teacher_classification(
    64, 512, teacher_sparsity=4, return_teacher=True, random_state=0
)
X_test, y_test = make_teacher_classification(10_000, 512, teacher=teacher, random_state=1)
eps_star = max_margin(X, y, q=np.inf).margin
print(f"A robust separator exists up to eps* = {eps_star:.3f}.")

# %%
# The training eps is also the one that attacks the test set.
shares = np.array([0.0, 0.125, 0.25, 0.5, 0.75])
fig, ax = plt.subplots(layout="constrained")
for p, colour in ((1, "C0"), (2, "C1"), (np.inf, "C2")):
    accuracy = {"path": [], "exact": []}
    for eps in shares * eps_star:
        for solver, label in (("auto", "path"), ("exact", "exact")):
            model = RobustLinearClassifier(
                p_algo=p, eps=eps, solver=solver, fit_intercept=False
            ).fit(X, y)
            accuracy[label].append(model.robust_score(X_test, y_test))
    ax.plot(shares, accuracy["path"], colour, marker="o", label=f"p = {p:g}, trained")
    ax.plot(shares, accuracy["exact"], colour, linestyle=":", label=f"p = {p:g}, exact limit")
ax.set(
    xlabel="eps / eps*",
    ylabel="exact robust test accuracy",
    title="All separate the training data robustly",
)
ax.legend()
plt.show()
