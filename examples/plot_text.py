"""
Text: the default eps is far too large
======================================

Is a piece of documentation about statistics or about signals? The words of a text, weighted by
TF-IDF, are a row of length 1 with some twenty entries that are not zero, half of them below 0.13.
An adversary who may move every entry by 0.1, the default of `RobustLinearClassifier`, can write any
text: the best classifier against him is constant, and a warning says so. `training_radii` reads
radii that fit off the data. The texts are docstrings of SciPy.
"""

import inspect
import warnings

import matplotlib.pyplot as plt
import numpy as np
import scipy.signal
import scipy.stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from sklearn_robust import (
    ConstantClassifierWarning,
    RobustAccuracyDisplay,
    RobustLinearClassifier,
    training_radii,
)

texts, topic = [], []
for module in (scipy.stats, scipy.signal):
    for name in module.__all__:
        text = inspect.getdoc(getattr(module, name)) or ""
        paragraphs = [part for part in text.split("\n\n") if len(part) > 150 and ">>>" not in part]
        texts += paragraphs[:2]
        topic += [module.__name__] * len(paragraphs[:2])
T_train, T_test, y_train, y_test = train_test_split(
    texts, topic, stratify=topic, test_size=0.3, random_state=0
)
words = TfidfVectorizer(sublinear_tf=True, min_df=3, stop_words="english").fit(T_train)
X_train, X_test = words.transform(T_train), words.transform(T_test)
print(f"{X_train.shape[0]} texts, {X_train.shape[1]} words, median entry", end=" ")
print(f"{np.median(X_train.data):.2f}")

# %%
# With the default radius nothing is learnt.

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    constant = RobustLinearClassifier(loss="logistic").fit(X_train, y_train)
for warning in caught:
    if warning.category is ConstantClassifierWarning:
        print(warning.message)

# %%
# Radii that fit, from the data, and three classifiers against an adversary of every radius.

radii = training_radii(X_train, y_train, q=np.inf)
print("radii to train with:", radii.round(4))
models = {"logistic regression": LogisticRegression(C=10).fit(X_train, y_train)}
for eps in radii[[1, 3, 5]]:
    model = RobustLinearClassifier(eps=eps, loss="logistic").fit(X_train, y_train)
    models[f"robust, eps = {eps:.4f}"] = model
display = RobustAccuracyDisplay.from_estimators(
    models, X_test, y_test, q=np.inf, eps=np.linspace(0, 2 * radii[5], 60)
)
display.ax_.set_title("What an adversary does to the topics of texts")
plt.show()
