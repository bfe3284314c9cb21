"""
The path to the exact separator
===============================

Steepest descent in the p-norm on the robust risk tends to the robust separator of least p-norm.
`PathRecorder` writes down where the fit is, and `ConvergenceDisplay` draws it: the certified gap
says how far the margin is from the best one, without knowing the limit; the cosine compares with
the limit itself, computed exactly; and the loss shows that it measures neither.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_robust import (
    ConvergenceDisplay,
    PathRecorder,
    RobustLinearClassifier,
    make_teacher_classification,
    max_margin,
    min_norm_separator,
)

# %%
# Few samples, many features, a sparse truth, and half of the largest radius at which the data can
# be separated.
X, y = make_teacher_classification(64, 256, teacher_sparsity=4, random_state=0)
eps = max_margin(X, y, q=np.inf).margin / 2

# %%
# With loss_tol = 0 training goes on towards the limit. 3 000 iterations do not reach the default
# gap of 1e-3: the fits warn.
recorders, separators = {}, {}
for p in (1, 2, np.inf):
    name = f"p = {p:g}"
    recorders[name] = PathRecorder(store_coef=True)
    model = RobustLinearClassifier(
        p_algo=p, eps=eps, solver="steepest_descent", loss_tol=0, max_iter=3000, fit_intercept=False
    ).set_callbacks(recorders[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    separators[name] = min_norm_separator(X, y, p=p, q=np.inf, eps=eps)
    print(f"{name}: margin {model.margin_:.4f} of at most {model.margin_bound_:.4f}")

ConvergenceDisplay.from_recorders(recorders, separators=separators)
plt.show()
