"""
What a car's papers may claim
=============================

A real table of mixed features: 392 cars of 1970 to 1982, and their consumption. Suppose that cars
that need little fuel are taxed less, and that the decision rests on the papers that their maker
files. A maker of a thirsty car would like it to pass. He cannot change the year or the origin of
the car; he can understate its weight, displacement and power, but would not overstate them; and he
can file one with fewer cylinders, one step down. A frugal car needs no lie. Each of these is a set,
and their sum is what the maker can do.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
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
train, test, y_train, y_test = train_test_split(table, fuel, random_state=0, stratify=fuel)
print(table.head(3).to_string(), f"\\n{np.mean(fuel == 'frugal'):.0%} of the cars are frugal")

# %%
# Numbers are standardised, categories one-hot encoded. The sets live in the space that the
# classifier sees, where bounds go by the names of its columns: what a dict leaves out does not
# move. The groups of categories come from the encoder; ``transitions`` lists the changes that a
# maker can file.
encode = make_column_transformer(
    (StandardScaler(), numbers),
    (OneHotEncoder(sparse_output=False), ["cylinders", "origin"]),
    verbose_feature_names_out=False,
).set_output(transform="pandas")
Z_train, Z_test = encode.fit_transform(train), encode.transform(test)
understated = Box({"displacement": -0.3, "horsepower": -0.3, "weight": -0.3}, 0.0)
cylinders = OneHot.from_encoder(
    encode, features=["cylinders"], transitions={"cylinders": [("8", "6"), ("6", "5"), ("6", "4")]}
)
maker = (understated + cylinders).only("thirsty")

# %%
# Three classifiers meet the maker: one that knows no adversary, one that was trained against a ball
# in which every number of every car moves, and one that was trained against what a maker can do.
# Their fits are certified, and so are their scores.
numbers_move = [0.3 * (name in numbers) for name in Z_train.columns]
models = {
    "LogisticRegression": LogisticRegression(),
    "the ball of 0.3": RobustLinearClassifier(eps=1.0, scale=numbers_move, loss="logistic"),
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
# How much of what a maker can do a car withstands: the factor on the numbers, car by car.
for name, model in models.items():
    factors = model.certified_radius(Z_test, y_test, threat=understated.only("thirsty")) if hasattr(
        model, "certified_radius"
    ) else None
    if factors is not None:
        thirsty = factors[y_test == "thirsty"]
        print(f"{name:20} {np.mean(thirsty > 1):.0%} of thirsty cars withstand the numbers")
