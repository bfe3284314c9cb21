"""
Several classes: each geometry has its own separator
====================================================

Several classes are one problem: a sample has a robust margin against every rival class, and
steepest descent moves the matrix of all coefficients. Its geometry may be an entrywise p-norm, or
the spectral or nuclear norm of the matrix. For two classes the path tends to the robust separator
of its own norm. For several classes that is proven without an adversary only; here it is measured
with one.

A ratio is a robust margin over the largest one in the same norm, so 1 at the separator of this
norm.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_robust.joint import JointProblem
from sklearn_robust.joint_certificates import robust_margin
from sklearn_robust.losses import Exponential
from sklearn_robust.norms import LpNorm, SchattenNorm
from sklearn_robust.separators.joint import largest_joint_distance, solve_joint_separator
from sklearn_robust.solvers import joint_steepest_descent

# %%
# Three Gaussian classes, fewer samples than features, and eps*, the largest radius of a robust
# separator.
n, d, K = 12, 16, 3
rng = np.random.default_rng(0)
y = np.arange(n) % K
X = rng.standard_normal((K, d))[y] + rng.standard_normal((n, d))
problem = JointProblem.from_data(X, y, q=np.inf, eps=1.0, fit_intercept=False)
eps_star = largest_joint_distance(problem).margin
print(f"A robust separator exists up to eps* = {eps_star:.3f}.")

# %%
# The paths of five geometries at three radii, 150 steps each, and the exact separators.
norms = {
    "p = 1": LpNorm(1),
    "p = 2": LpNorm(2),
    "p = inf": LpNorm(np.inf),
    "spectral": SchattenNorm(np.inf, K),
    "nuclear": SchattenNorm(1, K),
}
shares = (0.0, 0.25, 0.5)
own, ratios = {}, {}
for share in shares:
    threatened = problem.at_radius(share * eps_star)
    largest = [solve_joint_separator(threatened, norm).margin for norm in norms.values()]
    for i, (name, norm) in enumerate(norms.items()):
        path = joint_steepest_descent(
            threatened, Exponential(), norm, loss_tol=0, max_iter=150, record_every=5
        )
        own[share, name] = path.history["iteration"], path.history["margin"][:, 0] / largest[i]
        margins = [
            robust_margin(threatened, other, path.coef[0], np.zeros(K)) for other in norms.values()
        ]
        ratios[share, name] = np.array(margins) / largest

# %%
# In the norms 1, 2, inf and spectral the path of the norm is ahead of the others. In the nuclear
# norm gradient descent is ahead as yet: the two separators nearly agree on these data, and it takes
# fewer steps. The ratio in the own norm grows along every path, if not at every step, and
# slower for a larger radius.
fig, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
matrix = np.array([ratios[shares[1], name] for name in norms])
axes[0].imshow(matrix, vmin=0, vmax=1)
axes[0].set(title=f"margin / largest, eps = {shares[1]:g} eps*", xlabel="norm", ylabel="path")
axes[0].set_xticks(range(len(norms)), norms, rotation=45)
axes[0].set_yticks(range(len(norms)), norms)
for (i, j), value in np.ndenumerate(matrix):
    colour = "black" if value > 0.6 else "white"
    axes[0].text(j, i, f"{value:.2f}", ha="center", va="center", color=colour)
for ax, share in zip(axes[1:], shares, strict=True):
    for name in norms:
        ax.semilogx(*own[share, name], label=name)
    ax.set(title=f"own norm, eps = {share:g} eps*", xlabel="iteration", ylim=(0, 1.02))
axes[1].legend()
plt.show()
