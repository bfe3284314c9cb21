"""
What an applicant can change
============================

A lender's table mixes kinds of features. An applicant cannot change his age, can overstate his
income and his savings, can leave out a part of his debt, and can pick another answer in one
drop-down menu. Each is a set, and their sum is what he can do. The table is made up here, with the
columns of the usual credit data.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklearn_robust import RobustLinearClassifier, robust_accuracy_score
from sklearn_robust.threats import Box, LpBall, OneHot

rng = np.random.default_rng(0)
n = 600
table = pd.DataFrame(
    {
        "age": rng.normal(40, 10, n),
        "income": rng.normal(3, 1, n),
        "savings": rng.normal(1, 1, n),
        "debt": rng.normal(2, 1, n),
        "purpose": rng.choice(["car", "house", "business"], n),
        "housing": rng.choice(["rent", "own", "free"], n),
    }
)
score = 0.04 * (table["age"] - 40) + 0.8 * table["income"] + 0.9 * table["savings"] - table["debt"]
score += 1.0 * (table["purpose"] == "house") + 0.8 * (table["housing"] == "own")
repays = np.where(score + rng.logistic(0, 0.7, n) > 2, "repays", "defaults")

# %%
# Numbers are standardised, answers one-hot encoded. The sets live in the space that the classifier
# sees: the first four columns are the numbers, the groups of answers come from the encoder.
numbers, answers = ["age", "income", "savings", "debt"], ["purpose", "housing"]
encode = make_column_transformer(
    (StandardScaler(), numbers), (OneHotEncoder(sparse_output=False), answers)
)
train, test, y_train, y_test = train_test_split(table, repays, random_state=0)
Z_train, Z_test = encode.fit_transform(train), encode.transform(test)
d = Z_train.shape[1]
lower, upper = np.zeros(d), np.zeros(d)
upper[[1, 2]] = 0.5  # income and savings are overstated, by up to half a standard deviation
lower[3] = -0.3  # some debt is left out
applicant = (Box(lower, upper) + OneHot.from_encoder(encode)).only("defaults")

# %%
# Who would default applies with the best story that he can tell.
models = {
    "LogisticRegression": LogisticRegression(),
    "the ball of 0.3": RobustLinearClassifier(eps=0.3, loss="logistic"),
    "what an applicant can change": RobustLinearClassifier(threat=applicant, loss="logistic"),
}
adversaries = {
    "nobody": LpBall(np.inf, 0.0),
    "numbers": Box(lower, upper).only("defaults"),
    "numbers and an answer": applicant,
}
fig, ax = plt.subplots(layout="constrained")
for shift, (name, model) in zip((-0.25, 0.0, 0.25), models.items(), strict=True):
    model.fit(Z_train, y_train)
    scores = [
        robust_accuracy_score(model, Z_test, y_test, threat=threat)
        for threat in adversaries.values()
    ]
    ax.bar(np.arange(3) + shift, scores, 0.25, label=name)
    print(name, np.round(scores, 3))
ax.set_xticks(range(3), list(adversaries))
ax.set(xlabel="what applicants who would default change", ylabel="exact robust test accuracy")
ax.legend(loc="lower left")
plt.show()

# %%
# The worst story of one applicant, which is a row of the table: one answer differs, numbers move as
# far as they may.
model = models["what an applicant can change"]
liar = np.flatnonzero(y_test == "defaults")[:1]
story = model.perturb(Z_test[liar], y_test[liar])
names = encode.get_feature_names_out()
changes = dict(zip(names, (story - Z_test[liar])[0].round(2) + 0.0, strict=True))
print({name: float(change) for name, change in changes.items() if change})

# %%
# In a pipeline the same, fitted as one.
pipeline = make_pipeline(encode, RobustLinearClassifier(threat=applicant, loss="logistic"))
pipeline.fit(train, y_train)
print(f"pipeline: {robust_accuracy_score(pipeline, test, y_test, threat=applicant):.3f}")
