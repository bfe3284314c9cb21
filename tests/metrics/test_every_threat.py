"""Scores, radii and worst-case points against every set, for classifiers of scikit-learn."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from sklearn_robust import (
    RobustLinearClassifier,
    certified_radius,
    make_robust_scorer,
    robust_accuracy_score,
)
from sklearn_robust.metrics import worst_case_samples
from sklearn_robust.rows import NpyRows
from sklearn_robust.threats import (
    Box,
    Ellipsoid,
    FeatureBudget,
    LinearImage,
    LpBall,
    OneHot,
    Relations,
    bind,
)

FAMILIES = [
    "ball_1",
    "ball_inf",
    "clipped_1",
    "clipped_inf",
    "box",
    "box_clipped",
    "budget",
    "binary",
    "onehot",
    "image",
    "relations",
]


def data(threat_soak, name, n, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    X = threat_soak.samples(rng, (name,), n)
    y = rng.integers(0, n_classes, n)
    y[:n_classes] = range(n_classes)
    X[:, 0] += 0 if name in ("binary", "onehot") else 0.2 * y
    X = X / X.max() if name not in ("binary", "onehot") else X
    return X, y, rng


@pytest.mark.parametrize(
    ("name", "n_classes"), [(name, 2 + i % 2) for i, name in enumerate(FAMILIES)]
)
def test_scores_points_and_radii_against_enumeration(threat_soak, name, n_classes):
    X, y, rng = data(threat_soak, name, 12, n_classes, seed=1)
    case = threat_soak.make(name, rng, X)
    model = LogisticRegression(C=50).fit(X, y)
    coef = model.coef_ if n_classes > 2 else np.vstack([0 * model.coef_, model.coef_])
    scores = X @ coef.T + (model.intercept_ if n_classes > 2 else [0, model.intercept_[0]])
    margins = np.full((len(X), n_classes), np.inf)
    for i, c in enumerate(y):
        others = [k for k in range(n_classes) if k != c]
        taken = np.max([piece.supports(coef[others] - coef[c]) for piece in case.pieces[i]], axis=0)
        margins[i, others] = scores[i, c] - scores[i, others] - taken
    expected = margins.min(axis=1)
    assert robust_accuracy_score(model, X, y, threat=case.threat) == np.mean(expected > 0)
    # the points are in their sets, and attain the margins
    moved = worst_case_samples(model, X, y, threat=case.threat)
    assert all(
        any(piece.holds(delta) for piece in of_one)
        for of_one, delta in zip(case.pieces, moved - X, strict=True)
    )
    scores = moved @ coef.T + (model.intercept_ if n_classes > 2 else [0, model.intercept_[0]])
    own = scores[np.arange(len(y)), y]
    scores[np.arange(len(y)), y] = -np.inf
    np.testing.assert_allclose(own - scores.max(axis=1), expected, atol=1e-8)
    # the decision holds just below the radius, and not above
    radii = certified_radius(model, X, model.predict(X), threat=case.threat)
    assert (radii >= 0).all()
    if name.startswith(("ball", "clipped")):
        radii = radii / case.threat.eps
    found = np.isfinite(radii) & (radii > 0)
    assert found.any()
    for factor, robust in ((1 - 1e-6, 1.0), (1 + 1e-6, 0.0)):
        assert (
            robust_accuracy_score(
                model,
                X[found],
                model.predict(X[found]),
                threat=case.threat,
                sample_radius=factor * radii[found],
            )
            == robust
        )
    unbreakable = ~np.isfinite(radii)
    if unbreakable.any():
        of_many = np.full(unbreakable.sum(), 1e6)
        predicted = model.predict(X[unbreakable])
        options = {"threat": case.threat, "sample_radius": of_many}
        assert robust_accuracy_score(model, X[unbreakable], predicted, **options) == 1
    wrong = certified_radius(model, X, y, threat=case.threat)
    np.testing.assert_array_equal(wrong < 0, model.predict(X) != y)


@pytest.fixture(scope="module")
def table():
    """Numbers and categories by name, and a pipeline on them."""
    rng = np.random.default_rng(0)
    n = 120
    frame = pd.DataFrame(
        {
            "age": rng.integers(20, 70, n).astype(float),
            "amount": rng.gamma(2.0, 1000.0, n),
            "housing": rng.choice(["own", "rent", "free"], n),
            "phone": rng.choice(["no", "yes"], n),
        }
    )
    score = frame["amount"] / 1000 + (frame["housing"] == "rent") + rng.normal(size=n)
    y = np.where(score > score.median(), "bad", "good")
    encode = make_column_transformer(
        (StandardScaler(), ["age", "amount"]),
        (OneHotEncoder(drop="if_binary"), ["housing", "phone"]),
    )
    return frame, y, make_pipeline(encode, LogisticRegression()).fit(frame, y)


def test_categories_of_a_pipeline(table):
    frame, y, model = table
    threat = OneHot.from_encoder(model[0], n_changes=1)
    assert threat.groups == [[2, 3, 4], [5]]
    assert threat.baseline == [False, True]
    robust = model.predict(frame) == y
    for column in ("housing", "phone"):
        for value in frame[column].unique():
            robust &= model.predict(frame.assign(**{column: value})) == y
    assert robust_accuracy_score(model, frame, y, threat=threat) == robust.mean()
    moved = worst_case_samples(model, frame, y, threat=threat)
    assert set(np.unique(moved[:, 2:])) == {0.0, 1.0}
    np.testing.assert_array_equal(moved[:, 2:5].sum(axis=1), 1)
    # numbers move beside them
    both = threat + Box([-0.2, -0.2, 0, 0, 0, 0], [0.2, 0.2, 0, 0, 0, 0])
    assert robust_accuracy_score(model, frame, y, threat=both) < robust.mean()
    listed = OneHot.from_encoder(model[0], transitions={"housing": [("rent", "own")], "phone": []})
    rents = frame["housing"] == "rent"
    robust = model.predict(frame) == y
    robust &= ~rents | (model.predict(frame.assign(housing="own")) == y)
    assert robust_accuracy_score(model, frame, y, threat=listed) == robust.mean()


def test_names_and_limits_in_the_space_of_the_input(table):
    frame, y, model = table
    options = {"space": "input"}
    most = frame["amount"].max()
    threat = Box(0, {"amount": 1500.0}, clip=([-np.inf] * 4, [np.inf, most, np.inf, np.inf]))
    score = robust_accuracy_score(model, frame, y, threat=threat, **options)
    raised = frame.assign(amount=np.minimum(frame["amount"] + 1500, most))
    assert score == np.mean((model.predict(frame) == y) & (model.predict(raised) == y))
    moved = worst_case_samples(model, frame, y, threat=threat, **options)
    assert np.isnan(moved[:, 2:]).all()
    attacked = frame.assign(age=moved[:, 0], amount=moved[:, 1])
    robust = (model.predict(attacked) == y) & (model.predict(frame) == y)
    assert score == robust.mean()
    with pytest.raises(ValueError, match="upper names a feature that X does not have: 'salary'"):
        robust_accuracy_score(model, frame, y, threat=Box(0, {"salary": 1.0}), **options)


def test_sets_on_the_input_leave_categories_as_they_are(table):
    frame, y, model = table
    # a perturbation that does not move the last two features has the conditional covariance
    root = np.random.default_rng(0).normal(size=(4, 4)) * [[5.0], [800.0], [1.0], [1.0]]
    whole = root @ root.T
    known = np.linalg.solve(whole[2:, 2:], whole[2:, :2])
    numbers = Ellipsoid(whole[:2, :2] - whole[:2, 2:] @ known, 0.5, features=["age", "amount"])
    options = {"space": "input"}
    found = certified_radius(model, frame, y, threat=Ellipsoid(whole, 0.5), **options)
    expected = certified_radius(model, frame, y, threat=numbers, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    moved = worst_case_samples(model, frame, y, threat=Ellipsoid(whole, 0.5), **options)
    assert np.isnan(moved[:, 2:]).all()
    holes = frame.assign(age=frame["age"].where(frame["age"] > 30))
    gaps = make_pipeline(
        make_column_transformer((SimpleImputer(), ["age", "amount"])), LogisticRegression()
    ).fit(holes, y)
    with pytest.raises(ValueError, match="threat=Ellipsoid meets entries without a value"):
        robust_accuracy_score(gaps, holes, y, threat=numbers, **options)


def test_vast_factors_do_not_lose_the_limits():
    """Of a set of 1e12 beside limits of 1 no program is solved where a smaller set breaks."""
    X = np.array([[1, 2], [2, 0], [2, 1], [0, 1], [2, 2], [4, 4], [2, 2], [0, 2]]) / 4
    model = LogisticRegression(C=20).fit(X, [0, 1, 1, 0, 0, 0, 0, 0])
    limited = LpBall(1, 0.7, clip=([-0.3, -np.inf], [1.3, 1.3]))
    both = limited & LpBall(2, 0.2, [0.5, 2.0])
    radius = certified_radius(model, X, threat=both)
    predicted = model.predict(X)
    for factor, share in ((1 - 1e-6, 1.0), (1 + 1e-6, 0.0)):
        options = {"threat": both, "sample_radius": factor * radius}
        assert robust_accuracy_score(model, X, predicted, **options) == share


def test_values_that_are_missing_do_not_move():
    rng = np.random.default_rng(0)
    X = rng.random((60, 3))
    y = (X[:, 0] + X[:, 1] > 1).astype(int)
    X[rng.random(X.shape) < 0.2] = np.nan
    model = make_pipeline(SimpleImputer(), LogisticRegression()).fit(X, y)
    threat = Box(-0.1, 0.1, clip=(0, 1))
    moved = worst_case_samples(model, X, y, threat=threat, space="input")
    np.testing.assert_array_equal(np.isnan(moved), np.isnan(X))
    robust = (model.predict(moved) == y) & (model.predict(X) == y)
    assert robust_accuracy_score(model, X, y, threat=threat, space="input") == robust.mean()


def test_the_input_of_affine_steps_is_a_linear_image():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4))
    y = (X[:, 0] > 0).astype(int)
    model = make_pipeline(StandardScaler(), PCA(2), LogisticRegression()).fit(X, y)
    matrix = model[1].components_ / model[0].scale_
    for threat in (LpBall(2, 0.4), Box(-0.1, 0.5), FeatureBudget(1, 0.6)):
        image = LinearImage(bind(threat, 4), matrix)
        radius = certified_radius(model, X, y, threat=threat, space="input")
        if isinstance(threat, LpBall):
            radius = radius / 0.4
        np.testing.assert_allclose(certified_radius(model, X, y, threat=image), radius)


def test_one_class_attacks():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    y = np.where(X[:, 0] + 0.3 * rng.normal(size=100) > 0, "malware", "benign")
    model = RidgeClassifier().fit(X, y)
    correct = model.predict(X) == y
    ball = LpBall(np.inf, 0.3)
    robust = worst = None
    for threat in (
        ball.only("malware"),
        LpBall(np.inf, {"malware": 0.3, "benign": 0.0}),
        Box(-0.3, 0.3).only(["malware"]),
    ):
        score = robust_accuracy_score(model, X, y, threat=threat)
        moved = worst_case_samples(model, X, y, threat=threat)
        np.testing.assert_array_equal(moved[y == "benign"], X[y == "benign"])
        robust = score if robust is None else robust
        worst = moved if worst is None else worst
        assert score == robust
        np.testing.assert_allclose(moved, worst)
    of_malware = robust_accuracy_score(model, X[y == "malware"], y[y == "malware"], threat=ball)
    share = np.mean(y == "malware")
    assert robust == pytest.approx(share * of_malware + np.mean(correct & (y == "benign")))
    # features that shrink without limit
    shrinks = Box(-np.inf, 0).only("malware")
    score = robust_accuracy_score(model, X, y, threat=shrinks)
    assert score == np.mean(correct & (y == "benign"))
    moved = worst_case_samples(model, X, y, threat=shrinks)
    assert np.isfinite(moved).all()
    assert (model.predict(moved)[y == "malware"] == "benign").all()
    with pytest.raises(ValueError, match="names the class 'spam', which the data do not have"):
        robust_accuracy_score(model, X, y, threat=ball.only("spam"))
    with pytest.raises(ValueError, match="eps must hold a radius for each class"):
        robust_accuracy_score(model, X, y, threat=LpBall(2, {"malware": 0.3}))


def test_limits_are_a_parameter_beside_eps():
    rng = np.random.default_rng(0)
    X = rng.random((80, 5))
    y = (X @ [1, -1, 1, 0, 0] > 0.5).astype(int)
    model = RobustLinearClassifier(eps=0.02).fit(X, y)
    for q in (1, 2, 3.5, np.inf):
        limited = LpBall(q, 0.2, clip=(0, 1))
        options = {"eps": 0.2, "q": q, "clip": (0, 1)}
        score = robust_accuracy_score(model, X, y, **options)
        assert score == robust_accuracy_score(model, X, y, threat=limited)
        assert score == model.robust_score(X, y, **options)
        assert score == make_robust_scorer(**options)(model, sparse.csr_array(X), y)
        moved = model.perturb(X, y, **options)
        assert moved.min() >= 0
        assert moved.max() <= 1
        np.testing.assert_array_equal(moved, worst_case_samples(model, X, y, **options))
        assert score == np.mean((model.predict(moved) == y) & (model.predict(X) == y))
        assert score >= robust_accuracy_score(model, X, y, eps=0.2, q=q)
        plain = certified_radius(model, X, y, q=q)
        assert (
            np.abs(certified_radius(model, X, y, q=q, clip=(0, 1))) >= np.abs(plain) - 1e-12
        ).all()
    with pytest.raises(ValueError, match="clip must hold every sample before it is perturbed"):
        robust_accuracy_score(model, X + 1, y, eps=0.1, clip=(0, 1))


def test_limits_of_rows_in_blocks(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.random((40, 5))
    y = (X @ [1, -1, 1, 0, 0] > 0.5).astype(int)
    model = LogisticRegression().fit(X, y)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    rows = NpyRows(tmp_path / "X.npy", tmp_path / "y.npy")
    found = certified_radius(model, rows, q=2, clip=(0, 1))
    np.testing.assert_allclose(found, certified_radius(model, X, y, q=2, clip=(0, 1)))
    assert (np.abs(found) > np.abs(certified_radius(model, X, y, q=2)) + 1e-6).any()


def test_the_radius_of_each_sample():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = (X[:, 0] > 0).astype(int)
    radius = rng.choice([0.0, 0.2, 0.6], 60)
    model = RobustLinearClassifier(eps=0.02).fit(X, y)
    expected = np.mean(
        [robust_accuracy_score(model, X[[i]], y[[i]], eps=0.5 * radius[i], q=2) for i in range(60)]
    )
    options = {"eps": 0.5, "q": 2, "sample_radius": radius}
    assert robust_accuracy_score(model, X, y, **options) == pytest.approx(expected)
    assert model.robust_score(X, y, **options) == pytest.approx(expected)
    moves = np.linalg.norm(model.perturb(X, y, **options) - X, axis=1)
    np.testing.assert_allclose(moves, 0.5 * radius)
    for bad in ([1.0], np.full(60, -1.0), np.full(60, np.nan), ["a"] * 60):
        with pytest.raises(ValueError, match="sample_radius must hold a finite number >= 0"):
            robust_accuracy_score(model, X, y, eps=0.5, sample_radius=bad)


def test_radii_are_routed_to_the_scorer():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = (X[:, 0] > 0).astype(int)
    radius = rng.random(60)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_robust_scorer(threat=Box(-0.5, 0.1)).set_score_request(sample_radius=True)
        found = cross_validate(
            LogisticRegression(), X, y, scoring=scorer, cv=2, params={"sample_radius": radius}
        )["test_score"]
        with pytest.raises(TypeError, match="set_score_request asks for"):
            scorer.set_score_request(radius=True)
    plain = cross_validate(LogisticRegression(), X, y, scoring=make_robust_scorer(eps=0.0), cv=2)
    assert (found < plain["test_score"]).any()


@pytest.mark.parametrize(
    "threat",
    [
        LpBall(2, {0: 0.1, 1: 0.2}, clip=(-9, 9)),
        Box({"a": -1.0}, 0.5) & LpBall(2, 0.3),
        FeatureBudget(2, 0.3) | Ellipsoid(np.eye(3)),
        Relations(Box(-1, 1), [[1.0, 1.0, 0.0]], 0.5).only([1]),
        LinearImage(LpBall(1, 0.2), np.ones((3, 1))) + LpBall(np.inf, 0.1),
    ],
    ids=repr,
)
def test_threats_are_kept_by_pickles_and_serve_frames(threat):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(40, 3)), columns=["a", "b", "c"])
    y = (X["a"] > 0).astype(int)
    model = make_pipeline(MinMaxScaler().set_output(transform="pandas"), LogisticRegression())
    model.fit(X, y)
    again = pickle.loads(pickle.dumps(threat))
    for space in ("model", "input"):
        score = robust_accuracy_score(model, X, y, threat=threat, space=space)
        assert score == robust_accuracy_score(model, X, y, threat=again, space=space)
        assert 0 <= score <= model.score(X, y)
