"""Every figure of a report equals brute force, intervals cover, and texts are the same bytes."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score, roc_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from sklearn_robust import MinNormRobustClassifier, RobustLinearClassifier, RobustnessReport
from sklearn_robust.metrics import certified_radius, worst_case_samples
from sklearn_robust.reports import intervals, measuring
from sklearn_robust.threats import Box, Ellipsoid, FeatureBudget, LpBall

EPS = 0.3


def draw(n_classes, n=40, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    scores = X @ rng.standard_normal((d, n_classes)) + rng.standard_normal((n, n_classes))
    return X, scores.argmax(axis=1)


def corners(x, q):
    """The extreme points of a ball around x, enough for linear scores; of q = 2 many points."""
    d = len(x)
    if q == np.inf:
        moves = np.array(np.meshgrid(*[[-1, 1]] * d)).reshape(d, -1).T
    elif q == 1:
        moves = np.concatenate([np.eye(d), -np.eye(d)])
    else:
        moves = np.random.default_rng(0).standard_normal((20_000, d))
        moves /= np.linalg.norm(moves, axis=1, keepdims=True)
    return x + EPS * moves


@pytest.mark.parametrize("q", [1, 2, np.inf])
@pytest.mark.parametrize("weighted", [False, True])
def test_figures_of_two_classes_are_those_of_brute_force(q, weighted):
    X, y = draw(2)
    weight = np.random.default_rng(1).integers(0, 4, len(y)).astype(float) if weighted else None
    groups = np.where(np.arange(len(y)) % 3 == 0, "a", "b")
    model = LogisticRegression(C=10).fit(X, y)
    report = RobustnessReport(
        model, X, y, threats={"ball": LpBall(q, EPS)}, groups=groups, sample_weight=weight
    )
    every = [model.decision_function(corners(x, q)) for x in X]
    worst = np.array([f.min() if k else f.max() for f, k in zip(every, y, strict=True)])
    right = np.where(y == 1, worst > 0, worst < 0)
    proba = 1 / (1 + np.exp(-worst))
    rough = 1e-3 if q == 2 else 1e-9
    size = np.ones(len(y)) if weight is None else weight
    for name, members in [("all", size > 0), ("group a", (groups == "a") & (size > 0))]:
        found = {
            key: figure["value"]
            for key, figure in report.content["threats"][1]["groups"][name]["figures"].items()
        }
        w, t, s = size[members], y[members], worst[members]
        assert found["robust accuracy"] == pytest.approx(np.average(right[members], weights=w))
        of_class = [np.average(right[members][t == k], weights=w[t == k]) for k in (0, 1)]
        assert found["balanced robust accuracy"] == pytest.approx(np.mean(of_class))
        assert found["AUC"] == pytest.approx(roc_auc_score(t, s, sample_weight=w), abs=rough)
        assert found["Gini"] == pytest.approx(2 * found["AUC"] - 1)
        false, true, _ = roc_curve(t, s, sample_weight=w, drop_intermediate=False)
        assert found["KS"] == pytest.approx(max((true - false).max(), 0), abs=rough)
        expected = brier_score_loss(t, proba[members], sample_weight=w)
        assert found["Brier score"] == pytest.approx(expected, abs=rough)
        expected = log_loss(t, proba[members], sample_weight=w, labels=[0, 1])
        assert found["log loss"] == pytest.approx(expected, abs=10 * rough)
    confusion = np.array(report.content["threats"][1]["groups"]["all"]["confusion"])
    assert np.trace(confusion) == pytest.approx(size @ right)
    assert confusion.sum() == pytest.approx(size.sum())


def test_figures_of_several_classes_are_those_of_brute_force():
    X, y = draw(3)
    model = LogisticRegression().fit(X, y)
    report = RobustnessReport(model, X, y, threats=[LpBall(np.inf, EPS)])
    clean, attacked = (of["groups"]["all"] for of in report.content["threats"])
    right = np.array(
        [(model.predict(corners(x, np.inf)) == k).all() for x, k in zip(X, y, strict=True)]
    )
    assert attacked["figures"]["robust accuracy"]["value"] == right.mean()
    balanced = np.mean([right[y == k].mean() for k in range(3)])
    assert attacked["figures"]["balanced robust accuracy"]["value"] == pytest.approx(balanced)
    assert np.trace(attacked["confusion"]) == right.sum()
    predicted = np.zeros((3, 3))
    np.add.at(predicted, (y, model.predict(X)), 1)
    np.testing.assert_array_equal(np.diag(clean["confusion"]), np.diag(predicted))
    # radii: just below a radius fewer than that share is wrong, at it not fewer
    for name, share in (("a tenth", 0.1), ("half", 0.5)):
        radius = float(attacked["radii"][name])
        wrong = [
            1
            - RobustnessReport(model, X, y, threats=[LpBall(np.inf, max(r, 1e-9))]).content[
                "threats"
            ][1]["groups"]["all"]["figures"]["robust accuracy"]["value"]
            for r in (radius - 1e-4, radius + 1e-4)
        ]
        assert wrong[1] >= share
        assert wrong[0] < share or radius == 0


def test_the_adversary_uses_the_features_of_the_perturbation():
    X, y = draw(2)
    model = LogisticRegression().fit(X, y)
    w = np.abs(model.coef_[0])
    report = RobustnessReport(model, X, y, threats=[LpBall(np.inf, EPS)])
    shares = dict(report.content["threats"][1]["groups"]["all"]["features"])
    for j in range(3):
        assert shares[f"x{j}"] == pytest.approx(w[j] / w.sum())
    only = RobustnessReport(model, X, y, threats=[LpBall(1, EPS)])
    ((name, share),) = only.content["threats"][1]["groups"]["all"]["features"]
    assert (name, share) == (f"x{w.argmax()}", 1.0)


def test_clopper_pearson_covers_whatever_the_proportion():
    from scipy.stats import binom

    for n in (1, 7, 40):
        ends = [intervals.clopper_pearson(k / n, n) for k in range(n + 1)]
        for share in np.linspace(0.01, 0.99, 33):
            inside = [low <= share <= high for low, high in ends]
            assert binom.pmf(np.arange(n + 1), n, share) @ inside >= 0.95


def test_clopper_pearson_is_that_of_scipy():
    from scipy.stats import binomtest

    for successes, n in ((0, 7), (3, 7), (7, 7), (199, 400)):
        ends = binomtest(successes, n).proportion_ci(0.95, method="exact")
        assert intervals.clopper_pearson(successes / n, n) == pytest.approx((ends.low, ends.high))


def test_intervals_hold_the_figure_and_equal_weights_are_none():
    X, y = draw(2, n=60)
    scores, positive, right = X[:, 0], y == 1, X[:, 1] > -1
    for make in (
        lambda weight: intervals.area_under_curve(scores, positive, weight),
        lambda weight: intervals.largest_difference(scores, positive, weight),
        lambda weight: intervals.mean(np.exp(scores), weight),
        lambda weight: intervals.mean_of_classes(right, y, weight),
        lambda weight: intervals.proportion(right, weight),
    ):
        one = make(np.ones(60))
        assert one.low < one.value < one.high
        for field in ("value", "low", "high"):
            assert getattr(make(np.full(60, 4.0)), field) == pytest.approx(getattr(one, field))
        rare = make(np.where(np.arange(60) % 3 == 0, 1.0, 1e-3))
        assert rare.high - rare.low > one.high - one.low  # a third of the samples counts


def test_intervals_of_samples_that_do_not_vary():
    y = np.repeat([0, 1], 10)
    area = intervals.area_under_curve(y + 0.0, y == 1, np.ones(20))
    assert (area.value, area.high) == (1, 1)
    assert area.low == pytest.approx(intervals.clopper_pearson(1.0, 10, 0.97)[0])
    constant = intervals.mean(np.full(20, 0.25), np.ones(20))
    assert (constant.value, constant.low, constant.high) == pytest.approx((0.25, 0.25, 0.25))


def test_delongs_variance_is_that_of_all_pairs():
    """The interval is that of a proportion of A (1 - A) / V samples, V from the kernel's means."""
    X, y = draw(2, n=30)
    scores, positive = X[:, 0].round(1), y == 1  # with ties
    kernel = np.sign(scores[positive][:, None] - scores[~positive]) / 2 + 0.5
    m, n = kernel.shape
    parts = [kernel.mean(axis=1).var(ddof=1) / m, kernel.mean(axis=0).var(ddof=1) / n]
    found = intervals.area_under_curve(scores, positive, np.ones(30))
    A, V = kernel.mean(), sum(parts)
    assert found.value == pytest.approx(A)
    from scipy.stats import norm, t

    df = V**2 / (parts[0] ** 2 / (m - 1) + parts[1] ** 2 / (n - 1))
    number = A * (1 - A) / V * (norm.isf(0.015) / t.isf(0.015, df)) ** 2
    expected = intervals.clopper_pearson(A, number, 0.97)
    assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    "threat",
    [
        Box([-0.3, 0, -0.1], [0.2, 0.4, 0]),
        Box(-0.4, 0.4, clip=(-4, 4)),
        FeatureBudget(2, eps=0.3),
        Ellipsoid(np.diag([0.1, 0.2, 0.05])),
        LpBall(2, {0: 0.3, 1: 0.1, 2: 0.0}),
        Box(0, 0.3).only(1),
    ],
)
def test_reports_against_other_sets(threat, n_classes):
    X, y = draw(n_classes)
    if isinstance(threat, LpBall) and n_classes == 2:
        threat = LpBall(2, {0: 0.3, 1: 0.1})
    model = LogisticRegression().fit(X, y)
    report = RobustnessReport(model, X, y, threats={"set": threat})
    part = report.content["threats"][1]["groups"]["all"]
    worst = worst_case_samples(model, X, y, threat=threat)
    nearly = X + (1 + 1e-9) * (worst - X)
    right = model.predict(nearly) == y
    assert part["figures"]["robust accuracy"]["value"] == pytest.approx(right.mean())
    assert np.trace(part["confusion"]) == right.sum()
    factors = np.sort(np.maximum(certified_radius(model, X, y, threat=threat), 0))
    for name, share in (("a tenth", 0.1), ("half", 0.5)):
        expected = factors[int(np.ceil(share * len(y))) - 1]
        assert float(part["radii"][name]) == pytest.approx(expected, rel=1e-4)
    if n_classes == 2:
        scores = model.decision_function(worst)
        assert part["figures"]["AUC"]["value"] == pytest.approx(roc_auc_score(y, scores))
        expected = log_loss(y, model.predict_proba(worst)[:, 1])
        assert part["figures"]["log loss"]["value"] == pytest.approx(expected)
    assert "set" in repr(report)


def test_the_same_bytes_and_no_word_of_compliance(tmp_path):
    X, y = draw(2)
    model = MinNormRobustClassifier(eps=0.01).fit(*draw(2, n=6))
    made = [
        RobustnessReport(model, X, y, certificates=[model.certificate_], groups=y) for _ in range(2)
    ]
    for form in ("to_json", "to_markdown", "to_html"):
        texts = [getattr(report, form)() for report in made]
        assert texts[0] == texts[1]
        assert "complian" not in texts[0].lower()
    for suffix in (".json", ".md", ".html"):
        made[0].save(tmp_path / f"report{suffix}")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["data"]["sha256"] in (tmp_path / "report.md").read_text()
    assert content["certificates"][0]["claim"] == repr(model.certificate_)
    assert made[0]._repr_html_().startswith("<div>")
    with pytest.raises(ValueError, match="must end with one of"):
        made[0].save(tmp_path / "report.pdf")


def test_a_section_of_a_model_card():
    X, y = draw(2)
    model = LogisticRegression().fit(X, y)
    report = RobustnessReport(model, X, y, threats=[LpBall(2, EPS)], title="Under attack")
    # skops.card.Card.add takes sections by their title
    assert report.model_card_section() == {"Under attack": report.to_markdown()}


def test_pipelines_and_frames():
    pd = pytest.importorskip("pandas")
    X, y = draw(2)
    frame = pd.DataFrame(X, columns=["age", "sum", "time"])
    model = make_pipeline(StandardScaler(), RobustLinearClassifier(eps=0.1)).fit(frame, y)
    report = RobustnessReport(model, frame, y)
    assert report.content["threats"][1]["eps"] == 0.1
    assert report.content["threats"][1]["groups"]["all"]["features"]
    assert "last step" in report.content["data"]["seen by"]


def test_radii_are_measured_once_for_all_groups(monkeypatch):
    X, y = draw(2)
    model, asked = LogisticRegression().fit(X, y), []
    distances = measuring.boundary_distances
    monkeypatch.setattr(
        measuring, "boundary_distances", lambda *a, **o: asked.append(1) or distances(*a, **o)
    )
    RobustnessReport(model, X, y, threats=[LpBall(2, EPS)], groups=np.arange(len(y)) % 3)
    assert len(asked) == 2  # once without adversary, once for the threat


def test_what_cannot_be_reported_is_refused():
    X, y = draw(2)
    model = LogisticRegression().fit(X, y)
    with pytest.raises(ValueError, match="threats must be given"):
        RobustnessReport(model, X, y)
    with pytest.raises(ValueError, match="at least one threat"):
        RobustnessReport(model, X, y, threats=[])
    with pytest.raises(ValueError, match="threat must be an LpBall or an object"):
        RobustnessReport(model, X, y, threats=["ball"])
    with pytest.raises(ValueError, match="two of one name, 'l_2 ball, eps=1, scaled by feature'"):
        RobustnessReport(
            model, X, y, threats=[LpBall(2, 1.0, [1, 2, 3]), LpBall(2, 1.0, [3, 2, 1])]
        )
    with pytest.raises(ValueError, match="groups must hold"):
        RobustnessReport(model, X, y, threats=[LpBall(2, 1.0)], groups=[1, 2])
    tree = DecisionTreeClassifier().fit(X, y)
    with pytest.raises(TypeError, match="neither a linear classifier nor a network"):
        RobustnessReport(tree, X, y, threats=[LpBall(2, 1.0)])


class Network:
    """What a report asks of a network of this library."""

    classes_ = np.array([0, 1])

    def robust_bounds(self, X, y, *, eps, q, scale):
        return (1.0, 1.0) if eps == 0 else (0.5, 0.75)


def test_networks_have_bounds_from_both_sides():
    X, y = draw(2)
    report = RobustnessReport(Network(), X, y, threats=[LpBall(np.inf, 0.05)])
    figure = report.content["threats"][1]["groups"]["all"]["figures"]["robust accuracy"]
    assert figure["value"] == 0.5
    assert "0.7500" in figure["name"]
    assert figure["low"] < 0.5 < 0.75 < figure["high"]
    assert "network" in report.to_markdown().split("## Not measured")[1]
    with pytest.raises(ValueError, match="l_q balls"):
        RobustnessReport(Network(), X, y, threats=[Box(-1, 1)])
    with pytest.raises(ValueError, match="must be the same for all"):
        RobustnessReport(
            Network(), X, y, threats=[LpBall(2, 0.05)], sample_weight=np.arange(1.0, 41)
        )
