"""The pictures show the numbers that the library computes, in the axes that were given."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from sklearn.datasets import load_breast_cancer, load_iris, make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import (
    ConvergenceDisplay,
    NotSeparableError,
    PathRecorder,
    RobustAccuracyDisplay,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustMLPClassifier,
    SeparatorDisplay,
    certified_radius,
    implicit_bias_report,
    make_robust_scorer,
    max_margin,
    min_norm_separator,
    robust_accuracy_score,
)
from sklearn_robust.norms import LpNorm
from sklearn_robust.threats import Box, LpBall

mpl.use("agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    models = {
        "logistic": LogisticRegression(C=0.1),
        "robust": RobustLinearClassifier(eps=0.2, q_pert=2),
    }
    return (
        X,
        y,
        {name: make_pipeline(StandardScaler(), model).fit(X, y) for name, model in models.items()},
    )


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def distinct(lines):
    styles = [(to_hex(line.get_color()), line.get_linestyle()) for line in lines]
    return (
        len({color for color, _ in styles}) == len({str(dash) for _, dash in styles}) == len(styles)
    )


class TestRobustAccuracy:
    @pytest.mark.parametrize("space", ["model", "input"])
    def test_the_curves_are_the_exact_scores(self, cancer, space):
        X, y, models = cancer
        eps, weight = [0.0, 0.05, 0.3], np.arange(len(y)) % 3
        display = RobustAccuracyDisplay.from_estimators(
            models, X, y, eps=eps, q=2, sample_weight=weight, space=space
        )
        for line, model in zip(display.lines_, models.values(), strict=True):
            exact = [
                robust_accuracy_score(model, X, y, eps=e, q=2, sample_weight=weight, space=space)
                for e in eps
            ]
            np.testing.assert_allclose(line.get_ydata(), exact, rtol=1e-12)
            np.testing.assert_array_equal(line.get_xdata(), eps)
        assert legend(display.ax_) == list(models)
        assert distinct(display.lines_)
        assert "2-norm" in display.ax_.get_xlabel()

    def test_by_default_the_curve_reaches_to_where_few_samples_withstand(self, cancer):
        X, y, models = cancer
        line = RobustAccuracyDisplay.from_estimator(models["robust"], X, y).lines_[0]
        assert line.get_xdata()[0] == 0
        assert 0.04 < line.get_ydata()[-1] < 0.06
        assert line.get_label() == "RobustLinearClassifier"
        assert (np.diff(line.get_ydata()) <= 0).all()

    def test_several_displays_share_the_axes_given(self, cancer):
        X, y, models = cancer
        figure, ax = plt.subplots()
        displays = [
            RobustAccuracyDisplay.from_estimator(m, X, y, q=2, name=n, ax=ax)
            for n, m in models.items()
        ]
        assert all(display.ax_ is ax and display.figure_ is figure for display in displays)
        assert distinct([line for display in displays for line in display.lines_])
        assert legend(ax) == list(models)

    def test_a_network_lies_between_proof_and_attack(self):
        X, y = make_moons(40, noise=0.1, random_state=0)
        network = RobustMLPClassifier((8,), eps=0.1, loss_tol=0.4, random_state=0).fit(X, y)
        linear = LogisticRegression().fit(X, y)
        pipeline = make_pipeline("passthrough", network)
        eps = [0.0, 0.7]
        models = {"network": pipeline, "linear": linear}
        display = RobustAccuracyDisplay.from_estimators(models, X, y, eps=eps, n_steps=5)
        bounds = np.array([network.robust_bounds(X, y, eps=e, n_steps=5) for e in eps])
        assert bounds[1, 0] < bounds[1, 1]
        np.testing.assert_array_equal(display.lines_[0].get_ydata(), bounds[:, 1])
        np.testing.assert_array_equal(display.curves[0].low, bounds[:, 0])
        band = display.bands_[0].get_paths()[0].vertices
        assert {*bounds.ravel().tolist()} <= {*band[:, 1].tolist()}
        assert display.bands_[1] is None
        alone = RobustAccuracyDisplay.from_estimator(
            network, X, y, attack="pgd", n_steps=1, method="interval"
        )
        assert alone.lines_[0].get_xdata()[-1] == pytest.approx(0.2)
        network.threat_ = Box(-0.1, 0.1)
        with pytest.raises(ValueError, match="eps must be given"):
            RobustAccuracyDisplay.from_estimator(network, X, y)

    def test_from_predictions(self, cancer):
        X, y, models = cancer
        model = models["logistic"]
        radius = certified_radius(model, X, q=2)
        display = RobustAccuracyDisplay.from_predictions(
            y, model.predict(X), radius, eps=[0, 0.2], name="mine"
        )
        exact = [robust_accuracy_score(model, X, y, eps=e, q=2) for e in (0, 0.2)]
        np.testing.assert_allclose(display.lines_[0].get_ydata(), exact)
        assert legend(display.ax_) == ["mine"]

    def test_from_cv_results(self, cancer):
        X, y, _ = cancer
        model = make_pipeline(StandardScaler(), RobustLinearClassifier(loss="logistic", tol=1e-2))
        step = "robustlinearclassifier__"
        grid = {
            f"{step}eps": [0.3, 0.1],
            f"{step}p_algo": [1, 2],
            f"{step}fit_intercept": [True, False],
        }
        search = GridSearchCV(model, grid, scoring=make_robust_scorer(eps=0.2), cv=2).fit(X, y)
        results = search.cv_results_
        display = RobustAccuracyDisplay.from_cv_results(results)
        of_search = RobustAccuracyDisplay.from_cv_results(search)
        for line, same in zip(display.lines_, of_search.lines_, strict=True):
            np.testing.assert_array_equal(line.get_data(), same.get_data())
        # in one line if they agree everywhere
        assert ", ".join(legend(display.ax_)) == "p = 1, p = 2"
        for p in (1, 2):
            line = next(line for line in display.lines_ if f"p = {p}" in line.get_label())
            curve = display.curves[display.lines_.index(line)]
            for eps, shown in zip(*line.get_data(), strict=True):
                same = (results[f"param_{step}eps"] == eps) & (results[f"param_{step}p_algo"] == p)
                best = np.flatnonzero(same)[results["mean_test_score"][same].argmax()]
                assert shown == results["mean_test_score"][best]
                std = (curve.high - curve.accuracy)[curve.eps == eps]
                np.testing.assert_allclose(std, results["std_test_score"][best])
            np.testing.assert_array_equal(line.get_xdata(), [0.1, 0.3])

    def test_lines_that_agree_are_one(self):
        results = {
            "param_eps": [0.1, 0.2] * 3,
            "param_p_algo": ["spectral", "spectral", 2, 2, 1, 1],
            "mean_test_score": [0.5, 0.6, 0.5, 0.7, 0.5, 0.6],
            "std_test_score": [0.1] * 6,
        }
        display = RobustAccuracyDisplay.from_cv_results(results)
        assert legend(display.ax_) == ["p = 1, p = spectral", "p = 2"]
        np.testing.assert_array_equal(
            [line.get_ydata() for line in display.lines_], [[0.5, 0.6], [0.5, 0.7]]
        )

    def test_a_search_over_eps_alone_is_one_line(self, cancer):
        results = {
            "param_eps": [0.1, 0.2],
            "mean_test_robust": [0.5, 0.6],
            "std_test_robust": [0.1, 0.1],
        }
        display = RobustAccuracyDisplay.from_cv_results(results, score="robust")
        np.testing.assert_array_equal(display.lines_[0].get_ydata(), [0.5, 0.6])

    def test_messages(self, cancer):
        X, y, models = cancer
        two = {
            "a": models["robust"],
            "b": RobustLinearClassifier(eps=0.2).fit(StandardScaler().fit_transform(X), y),
        }
        with pytest.raises(ValueError, match=r"q must be given: .* different ones, \[2.0, inf\]"):
            RobustAccuracyDisplay.from_estimators(two, X, y)
        with pytest.raises(
            TypeError, match="KNeighborsClassifier is neither a linear classifier nor a network"
        ):
            RobustAccuracyDisplay.from_estimator(KNeighborsClassifier().fit(X, y), X, y, eps=[0.1])
        with pytest.raises(ValueError, match="cv_results holds no parameter eps"):
            RobustAccuracyDisplay.from_cv_results({"param_C": [1.0], "mean_test_score": [1.0]})
        for eps in ([-0.1], [True], ["0.1"], [10**400], "0.1"):
            with pytest.raises(ValueError, match="eps must be a finite number >= 0"):
                RobustAccuracyDisplay.from_estimator(models["robust"], X, y, eps=eps)


@pytest.mark.parametrize(
    ("threat", "label"),
    [
        (LpBall(np.inf, 0.2, clip=(-20, 20)), "eps, radius in the inf-norm, within limits"),
        (LpBall(np.inf, {0: 0.2, 1: 0.0}), "eps, multiple of the LpBall"),
        (LpBall(2, 0.2).only(1), "eps, multiple of the ByClass"),
        (Box(0, 0.3), "eps, multiple of the Box"),
    ],
)
def test_a_curve_is_the_score_against_the_set(cancer, threat, label):
    X, y, models = cancer
    factor = 0.2 if "within" in label else 1.0
    display = RobustAccuracyDisplay.from_estimator(
        models["robust"], X, y, threat=threat, eps=factor
    )
    expected = robust_accuracy_score(models["robust"], X, y, threat=threat)
    assert display.curves[0].accuracy == pytest.approx(expected)
    assert display.ax_.get_xlabel() == label


def distance(point, start, end):
    along = end - start
    share = np.clip((point - start) @ along / (along @ along), 0, 1)
    return np.linalg.norm(point - start - share * along)


PLANE = np.array([[2.0, 1.5], [1.0, -1.0], [2.5, 0.0], [-1.0, 1.0], [-2.0, 0.5], [-1.5, -2.0]])
LABELS = np.array(["up", "up", "up", "down", "down", "down"])


class TestSeparator:
    @pytest.mark.parametrize("q", [1, 2, 3, np.inf])
    def test_balls_have_the_radius_of_the_threat_and_touch_no_line(self, q):
        signs = np.where(LABELS == "up", 1, -1)
        eps = 0.6 * max_margin(PLANE, signs, q=q, fit_intercept=True).margin
        display = SeparatorDisplay.from_data(PLANE, LABELS, q=q, eps=eps)
        corners = [
            np.stack([path.vertices[:-1] for path in ball.get_paths()]) for ball in display.balls_
        ]
        for label, polygons in zip(("down", "up"), corners, strict=True):
            sizes = LpNorm(q).value(polygons - PLANE[label == LABELS][:, None])
            np.testing.assert_allclose(sizes, eps)
        for p, w, b in zip((1, 2, np.inf), display.coef, display.intercept, strict=True):
            exact = min_norm_separator(PLANE, signs, p=p, q=q, eps=eps, fit_intercept=True)
            np.testing.assert_allclose(w, exact.coef)
            assert (corners[1] @ w + b).min() > 0 > (corners[0] @ w + b).max()

    def test_lines_are_the_boundaries(self):
        shifted = PLANE + np.array([3.0, -1.0])  # so that no line passes through the origin
        display = SeparatorDisplay.from_data(shifted, LABELS, eps=0.2, p=(1, 2))
        for line, w, b in zip(display.lines_, display.coef, display.intercept, strict=True):
            for point in (line.get_xy1(), line.get_xy2()):
                assert np.dot(w, point) + b == pytest.approx(0, abs=1e-9)
            assert not np.allclose(line.get_xy1(), line.get_xy2())
        assert legend(display.ax_) == ["class down", "class up", "p = 1", "p = 2"]
        assert distinct(display.lines_)
        np.testing.assert_array_equal(display.points_[1].get_offsets(), shifted[LABELS == "up"])

    def test_boundaries_of_several_classes(self):
        rng = np.random.default_rng(0)
        y = np.arange(20) % 4
        X = np.array([[3, 0], [-2, 2.5], [-2, -2.5], [0.5, 5]])[y] + 0.5 * rng.normal(size=(20, 2))
        display = SeparatorDisplay.from_data(X, y, q=2, eps=0.3, p=(2,))
        W, b = display.coef[0], display.intercept[0]
        assert W.shape == (4, 2)
        segments = np.array(display.lines_[0].get_segments())
        assert 3 <= len(segments) <= 6
        for share in (0.01, 0.5, 0.99):
            scores = (1 - share) * segments[:, 0] + share * segments[:, 1]
            second, first = np.sort(scores @ W.T + b, axis=1).T[-2:]
            np.testing.assert_allclose(first, second)
        # each change of the class on the way between two samples is a crossing
        for way in (X[0] + np.linspace(0, 1, 500)[:, None] * (x - X[0]) for x in X[1:4]):
            changes = np.flatnonzero(np.diff((way @ W.T + b).argmax(axis=1)))
            for at in changes:
                assert min(distance(way[at], *segment) for segment in segments) < 0.02
        for ball in display.balls_:
            corners = np.concatenate([path.vertices for path in ball.get_paths()])
            assert len(np.unique((corners @ W.T + b).argmax(axis=1))) == 1
        model = RobustLinearClassifier(eps=0.1).fit(X, y)
        two = SeparatorDisplay.from_estimators({"model": model, "again": model}, X, y)
        assert two.coef.shape == (2, 4, 2)
        assert two.eps == 0.1

    @pytest.mark.parametrize("layout", [None, "constrained"])
    def test_legends_stay_in_their_panels(self, layout):
        figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout=layout)
        for ax in axes:
            SeparatorDisplay.from_data(PLANE, LABELS, eps=0.2, ax=ax)
        figure.canvas.draw()
        for ax in axes:
            box, panel = ax.get_legend().get_window_extent(), ax.get_window_extent()
            assert panel.x0 <= box.x0
            assert box.x1 <= panel.x1

    def test_fitted_classifiers_behind_a_scaler(self):
        pd = pytest.importorskip("pandas")
        frame = pd.DataFrame(PLANE, columns=["height", "weight"])
        robust = make_pipeline(StandardScaler(), RobustLinearClassifier(eps=0.1, q_pert=2)).fit(
            frame, LABELS
        )
        plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, LABELS)
        figure, ax = plt.subplots()
        display = SeparatorDisplay.from_estimators(
            {"robust": robust, "plain": plain}, frame, LABELS, ax=ax
        )
        assert display.ax_ is ax
        assert display.figure_ is figure
        assert (display.q, display.eps) == (2, 0.1)
        np.testing.assert_array_equal(
            display.coef, np.concatenate([robust[-1].coef_, plain[-1].coef_])
        )
        np.testing.assert_allclose(display.X, StandardScaler().fit_transform(PLANE))
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("height", "weight")
        bare = SeparatorDisplay.from_estimator(plain, frame, LABELS)
        assert bare.balls_ is None
        assert bare.names == ["LogisticRegression"]
        assert display.plot(balls=False).balls_ is None

    @pytest.mark.parametrize("q", [1, 2, np.inf])
    def test_balls_have_the_scale_of_the_threat(self, q):
        scale = np.array([1.0, 0.25])
        model = RobustLinearClassifier(eps=0.1, q_pert=q, scale=scale).fit(PLANE, LABELS)
        for eps in (None, 0.2):
            display = SeparatorDisplay.from_estimator(model, PLANE, LABELS, eps=eps)
            path = display.balls_[1].get_paths()[0]
            corners = path.vertices - PLANE[LABELS == "up"][0]
            np.testing.assert_allclose(np.ptp(corners, axis=0), 2 * (eps or 0.1) * scale)

    def test_messages(self):
        with pytest.raises(ValueError, match="two features and at least two classes, got 1 and 2"):
            SeparatorDisplay.from_data(PLANE[:, :1], LABELS, eps=0.1)
        with pytest.raises(NotSeparableError):
            SeparatorDisplay.from_data(PLANE, LABELS, eps=5.0)
        three = LogisticRegression().fit(PLANE, [0, 1, 2, 0, 1, 2])
        with pytest.raises(
            ValueError, match=r"classifier 'three' has coefficients of shape \(3, 2\)"
        ):
            SeparatorDisplay.from_estimators({"three": three}, PLANE, LABELS)

    def test_sets_of_classes_within_limits(self):
        """Each sample has its own set: the class that attacks can grow without end, up to 2."""
        grows = Box(0, [np.inf, 0.25], clip=([-9, -9], [2.75, 2])).only("up")
        display = SeparatorDisplay.from_data(PLANE, LABELS, threat=grows, p=(2,))
        down, up = ([path.vertices for path in sets.get_paths()] for sets in display.balls_)
        for corners, x in zip(down, PLANE[LABELS == "down"], strict=True):
            np.testing.assert_array_equal(np.ptp(corners, axis=0), 0)
            np.testing.assert_array_equal(corners[0], x)
        for corners, x in zip(up, PLANE[LABELS == "up"], strict=True):
            np.testing.assert_allclose(corners.min(axis=0), x)
            np.testing.assert_allclose(corners.max(axis=0), [2.75, x[1] + 0.25])
            # no set is crossed
            assert (corners @ display.coef[0] + display.intercept[0]).min() > 0
        shown = SeparatorDisplay.from_estimator(
            LogisticRegression().fit(PLANE, LABELS), PLANE, LABELS, threat=grows
        )
        np.testing.assert_array_equal(shown.balls_[1].get_paths()[0].vertices, up[0])

    def test_a_set_without_bound_ends_outside_of_the_picture(self):
        display = SeparatorDisplay.from_data(PLANE, LABELS, threat=Box(0, [np.inf, 0]).only("up"))
        right = display.ax_.get_xlim()[1]
        assert right < 20
        ends = [path.vertices[:, 0].max() for path in display.balls_[1].get_paths()]
        assert right < min(ends) < np.inf

    def test_a_threat_takes_the_place_of_q_and_eps(self):
        with pytest.raises(ValueError, match=r"threat takes the place of q and eps, .* eps=0.1"):
            SeparatorDisplay.from_data(PLANE, LABELS, eps=0.1, threat=Box(-0.1, 0.1))
        with pytest.raises(ValueError, match="eps, the radius of the balls, or threat must be"):
            SeparatorDisplay.from_data(PLANE, LABELS)


class TestConvergence:
    def test_the_lines_are_the_record(self, gaussian):
        X, y = gaussian(30, 60)
        recorder = PathRecorder(store_coef=True)
        model = (
            RobustLinearClassifier(eps=0.1, loss_tol=0, tol=1e-2, fit_intercept=False)
            .set_callbacks(recorder)
            .fit(X, y)
        )
        separator = min_norm_separator(X, y, p=2, q=np.inf, eps=0.1)
        display = ConvergenceDisplay.from_recorders(
            {"path": recorder}, separators={"path": separator}
        )
        assert display.panels_ == ["gap", "cosine", "log_risk"]
        history = recorder.history_
        for panel in display.panels_:
            np.testing.assert_array_equal(
                display.lines_[panel][0].get_xdata(), history["iteration"]
            )
        np.testing.assert_array_equal(
            display.lines_["log_risk"][0].get_ydata(), history["log_risk"]
        )
        np.testing.assert_array_equal(display.lines_["gap"][0].get_ydata(), history["gap"])
        cosine = display.lines_["cosine"][0].get_ydata()
        w = model.coef_[0]
        expected = w @ separator.coef / np.linalg.norm(w) / np.linalg.norm(separator.coef)
        assert cosine[-1] == pytest.approx(expected)
        assert cosine[-1] > 0.99 > cosine[0]
        assert legend(display.axes_[0]) == ["path"]

    def test_from_estimator_leaves_the_estimator_as_it_was(self, gaussian):
        X, y = gaussian(20, 40)
        network = RobustDiagonalNet(eps=0.05, fit_intercept=False)
        display = ConvergenceDisplay.from_estimator(network, X, y, name="diagonal")
        assert display.panels_ == ["gap", "cosine", "log_risk"]
        assert not hasattr(network, "coef_")
        assert not hasattr(network, "_skl_callbacks")
        X, y = gaussian(60, 8, noise=2.0)
        inseparable = ConvergenceDisplay.from_estimator(RobustLinearClassifier(eps=0.1), X, y)
        assert inseparable.panels_ == ["gap", "log_risk"]

    def test_from_estimators_draws_each_beside_its_own_separator(self, gaussian):
        X, y = gaussian(20, 40)
        options = {"loss_tol": 0, "tol": 1e-2, "fit_intercept": False}
        models = {f"p = {p}": RobustLinearClassifier(p, eps=0.05, **options) for p in (1, 2)}
        display = ConvergenceDisplay.from_estimators(models, X, y)
        assert legend(display.axes_[0]) == ["p = 1", "p = 2"]
        for (name, model), curve in zip(models.items(), display.curves, strict=True):
            alone = ConvergenceDisplay.from_estimator(model, X, y, name=name).curves[0]
            np.testing.assert_array_equal(curve.cosine, alone.cosine)
            np.testing.assert_array_equal(curve.gap, alone.gap)

    def test_several_classes_are_one_curve_in_the_axes_given(self):
        X, y = load_iris(return_X_y=True)
        X, y = (np.concatenate([rows[:5], rows[50:55], rows[100:105]]) for rows in (X, y))
        figure, axes = plt.subplots(3, 1)
        network = RobustDiagonalNet(eps=0.02, loss_tol=0, tol=0.2)
        display = ConvergenceDisplay.from_estimator(network, X, y, axes=axes)
        assert list(display.axes_) == list(axes)
        assert display.figure_ is figure
        assert legend(axes[0]) == ["RobustDiagonalNet"]
        assert {len(lines) for lines in display.lines_.values()} == {1}
        report = implicit_bias_report(network.fit(X, y), X, y)
        cosine = display.lines_["cosine"][0].get_ydata()
        assert cosine[-1] == pytest.approx(report.cosine)
        assert cosine[-1] > 0.9

    def test_an_accelerated_fit_has_no_loss(self, gaussian):
        X, y = gaussian(30, 60)
        display = ConvergenceDisplay.from_estimator(
            RobustLinearClassifier(solver="accelerated", eps=0.1), X, y
        )
        assert display.panels_ == ["gap", "cosine"]
        with pytest.raises(
            ValueError, match=r"one axes for each panel of \['gap', 'cosine'\], got 1"
        ):
            display.plot(plt.subplots()[1])

    def test_messages(self, gaussian):
        X, y = gaussian(20, 40)
        with pytest.raises(
            ValueError, match="'RobustLinearClassifier' holds no path: it saw no fit"
        ):
            ConvergenceDisplay.from_estimator(RobustLinearClassifier(solver="exact"), X, y)
        recorder = PathRecorder()
        RobustLinearClassifier().set_callbacks(recorder).fit(X, y)
        separator = min_norm_separator(X, y, p=2, q=np.inf, eps=0.1)
        with pytest.raises(ValueError, match=r"use PathRecorder\(store_coef=True\)"):
            ConvergenceDisplay.from_recorders({"a": recorder}, separators={"a": separator})
