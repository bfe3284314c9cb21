"""
What a car's papers may claim
=============================

A real table of mixed features: 385 cars of 1970 to 1982, and their consumption. Suppose that cars
that need little fuel are taxed less, and that the decision rests on the papers that their maker
files. A maker of a thirsty car would like it to pass. He cannot change the year or the origin of
the car; he can understate its weight, displacement and power, but would not overstate them; and he
can file another number of cylinders. A frugal car needs no lie. Each of these is a set, and their
sum is what the maker can do.
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

try:
    from mlxtend.data import autompg_data
except ImportError as error:
    raise SystemExit("The table of cars comes with mlxtend: pip install mlxtend.") from error

values, miles_per_gallon = autompg_data()
numbers = ["displacement", "horsepower", "weight", "acceleration", "year"]
table = pd.DataFrame(values[:, :7], columns=["cylinders", *numbers, "origin"])
table["cylinders"] = table["cylinders"].astype(int).astype(str)
table["origin"] = table["origin"].map({1: "America", 2: "Europe", 3: "Japan"})
fuel = np.where(miles_per_gallon > 23, "frugal", "thirsty")
common = table["cylinders"].isin(["4", "6", "8"])  # seven cars have 3 or 5
table, fuel = table[common], fuel[common]
train, test, y_train, y_test = train_test_split(
    table, fuel, test_size=0.5, random_state=0, stratify=fuel
)
print(table.head(3).to_string())
print(f"{np.mean(fuel == 'frugal'):.0%} of the cars are frugal")

# %%
# Numbers are standardised, categories one-hot encoded. The sets live in the space that the
# classifier sees, where bounds go by the names of its columns: what a dict leaves out does not
# move. The columns of the cylinders come from the encoder.
encode = make_column_transformer(
    (StandardScaler(), numbers),
    (OneHotEncoder(sparse_output=False), ["cylinders", "origin"]),
    verbose_feature_names_out=False,
).set_output(transform="pandas")
Z_train, Z_test = encode.fit_transform(train), encode.transform(test)
lie = 0.5  # standard deviations
understated = Box({"displacement": -lie, "horsepower": -lie, "weight": -lie}, 0.0)
cylinders = OneHot.from_encoder(encode, features=["cylinders"])
maker = (understated + cylinders).only("thirsty")

# %%
# Three classifiers meet the maker: one that knows no adversary, one that was trained against a ball
# in which all numbers but the year move, of every car, and one that was trained against what a
# maker can do. The two robust fits are certified, and the scores are exact.
moving = [float(name in numbers[:-1]) for name in Z_train.columns]
models = {
    "LogisticRegression": LogisticRegression(),
    "the ball of 0.5": RobustLinearClassifier(eps=lie, scale=moving, loss="logistic"),
    "what a maker can do": RobustLinearClassifier(threat=maker, loss="logistic"),
}
adversaries = {
    "nobody": LpBall(np.inf, 0.0),
    "numbers": understated.only("thirsty"),
    "cylinders": cylinders.only("thirsty"),
    "both": maker,
}
figure, axis = plt.subplots(layout="constrained")
for shift, (name, model) in zip((-0.25, 0.0, 0.25), models.items(), strict=True):
    model.fit(Z_train, y_train)
    scores = [
        robust_accuracy_score(model, Z_test, y_test, threat=threat)
        for threat in adversaries.values()
    ]
    axis.bar(np.arange(len(scores)) + shift, scores, 0.25, label=name)
    print(f"{name:20}", np.round(scores, 3))
axis.set_xticks(range(len(adversaries)), list(adversaries))
axis.set(xlabel="what papers of thirsty cars misstate", ylabel="exact robust test accuracy")
axis.legend(loc="lower left")
plt.show()

# %%
# The papers that serve one maker best, against the classifier that expects them: year and origin
# stay, and so does everything of a frugal car.
model = models["what a maker can do"]
liar = np.flatnonzero(y_test == "thirsty")[:1]
papers = model.perturb(Z_test.iloc[liar], y_test[liar])
changes = pd.Series((papers - Z_test.iloc[liar].to_numpy())[0], index=Z_test.columns)
print(test.iloc[liar].to_string())
print(changes[changes != 0].round(2).to_string())

# %%
# In a pipeline the same, fitted as one.
pipeline = make_pipeline(encode, RobustLinearClassifier(threat=maker, loss="logistic"))
pipeline.fit(train, y_train)
print(f"pipeline: {robust_accuracy_score(pipeline, test, y_test, threat=maker):.3f}")
