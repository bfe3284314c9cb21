"""
Choosing the training eps for a fixed threat
============================================

The adversary is given: it moves each standardised measurement by up to 0.2 standard deviations. The
radius to train with is a hyper-parameter, chosen by a grid search that scores every candidate by
that one threat, exactly. The curve shows the robust accuracy of each classifier against the
radius of the adversary.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import RobustAccuracyDisplay, RobustLinearClassifier, make_robust_scorer

X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
threat = make_robust_scorer(eps=0.2)

# %%
# Two searches with the same scorer: over the training eps, and over the penalty of a logistic
# regression.
robust = GridSearchCV(
    make_pipeline(StandardScaler(), RobustLinearClassifier(loss="logistic")),
    {"robustlinearclassifier__eps": [0.05, 0.1, 0.2, 0.3]},
    scoring=threat,
).fit(X_train, y_train)
penalised = GridSearchCV(
    make_pipeline(StandardScaler(), LogisticRegression()),
    {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]},
    scoring=threat,
).fit(X_train, y_train)
clean = make_pipeline(StandardScaler(), LogisticRegression()).fit(X_train, y_train)
print(robust.best_params_, penalised.best_params_)

# %%
# What the search saw: the mean and spread of the robust score over the folds, against the training
# eps.
RobustAccuracyDisplay.from_cv_results(robust)

# %%
# Robust accuracy of a linear classifier is exact, whoever trained it.
models = {"robust risk": robust, "logistic, C tuned": penalised, "logistic, default": clean}
display = RobustAccuracyDisplay.from_estimators(
    models, X_test, y_test, eps=np.linspace(0, 0.6, 121)
)
display.ax_.axvline(0.2, color="grey", linewidth=1, label="the threat")
display.ax_.set(xlabel="eps, standard deviations", ylabel="exact robust test accuracy")
display.ax_.legend()
plt.show()
