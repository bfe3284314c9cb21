"""Callbacks see every fit, alone and inside pipelines and searches, and change nothing that they do
not ask for."""

import math
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import (
    MinNormRobustClassifier,
    PathRecorder,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    RobustMLPClassifier,
    RobustNetClassifier,
    make_robust_scorer,
)
from sklearn_robust.losses import LOSSES
from sklearn_robust.problems import RobustProblem

pytest.importorskip("sklearn.callback", reason="callbacks need scikit-learn 1.9")
from sklearn.callback import ProgressBar, ScoringMonitor

ITERATIVE = {
    "steepest_descent": RobustLinearClassifier(solver="steepest_descent", eps=0.05),
    "accelerated": RobustLinearClassifier(solver="accelerated", eps=0.05),
    "diagonal_descent": RobustDiagonalNet(eps=0.05),
    "robust_risk": RobustLinearClassifier(eps=0.4, loss="logistic"),
}
ESTIMATORS = [
    *ITERATIVE.values(),
    RobustLinearClassifier(solver="exact", eps=0.05),
    MinNormRobustClassifier(eps=0.05),
    RobustLinearClassifierCV(eps=[0.05, 0.1], threat_eps=0.05, cv=2, solver="exact"),
    RobustMLPClassifier((5,), loss_tol=0.8, random_state=0),
    RobustNetClassifier(loss_tol=0.8, random_state=0),
]


class Stop:
    """Asks to stop at the second iteration of any solver."""

    def __init__(self):
        self.ended = 0

    def setup(self, estimator, context): ...
    def teardown(self, estimator, context):
        self.torn_down = True

    def on_fit_task_begin(self, estimator, context): ...
    def on_fit_task_end(self, estimator, context):
        self.ended += context.task_name == "iteration"
        return self.ended >= 2


@pytest.fixture
def data(gaussian):
    X, y = gaussian(20, 30, noise=0.5)
    X[:, 0] += 0.3 * y
    return X, y


@pytest.fixture
def inseparable(gaussian):
    return gaussian(60, 8, noise=2.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator", ESTIMATORS, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'solver', '')}"
)
def test_scores_and_progress_are_monitored_and_nothing_else_changes(estimator, data, capsys):
    X, y = data
    monitor = ScoringMonitor(
        scoring={"robust": make_robust_scorer(eps=0.05)}
        if hasattr(estimator, "robust_score")
        else "accuracy"
    )
    monitored = clone(estimator).set_callbacks(monitor, ProgressBar()).fit(X, y)
    assert f"{type(estimator).__name__} - fit" in capsys.readouterr().out
    alone = clone(estimator).fit(X, y)
    np.testing.assert_array_equal(monitored.decision_function(X), alone.decision_function(X))
    assert monitored.n_iter_ == alone.n_iter_
    rows = monitor.get_logs().data
    name = "robust" if "robust" in rows[0] else "accuracy"
    assert len(rows) > 1 or getattr(estimator, "solver", "exact") == "exact"
    threat = make_robust_scorer(eps=0.05)
    last = [row for row in rows if row["task_name"] == "fit"][-1][name]
    assert last == (threat(monitored, X, y) if name == "robust" else monitored.score(X, y))


SHORT = {"eps": 0.05, "max_iter": 25, "tol": 1e-9}
LINEAR = [
    *(
        {"p_algo": p, "q_pert": q, "loss_tol": loss_tol, "solver": "steepest_descent"}
        for p, q, loss_tol in [
            (1, math.inf, 0),
            (1.5, math.inf, 1e-3),
            (2, 2, 1e-3),
            (3, 3, 0),
            (math.inf, math.inf, 1e-3),
        ]
    ),
    {"p_algo": 1, "loss_tol": 0, "solver": "steepest_descent", "loss": "logistic"},
    {"p_algo": 2, "loss_tol": 0, "solver": "steepest_descent", "step_size": "paper"},
    {"p_algo": 1, "loss_tol": 0, "solver": "steepest_descent", "device": "cpu"},
    *(
        {"p_algo": p, "loss_tol": loss_tol, "solver": "accelerated"}
        for p, loss_tol in ((1.5, 0), (2, 1e-3))
    ),
    {"p_algo": 1, "loss_tol": 0, "solver": "auto"},
    {"p_algo": 1, "loss_tol": 0, "solver": "exact"},
    {"p_algo": 1, "eps": 0.4, "loss": "logistic"},
    {"p_algo": 1, "eps": 0.4},
]
MONITORED = [
    *((RobustLinearClassifier(**{**SHORT, **options}), 2) for options in LINEAR),
    *(
        (RobustLinearClassifier(p_algo=p, solver="steepest_descent", loss_tol=0, **SHORT), 3)
        for p in (1, 3)
    ),
    (RobustLinearClassifier(eps=0.3, loss="logistic", max_iter=5), 3),
    (RobustDiagonalNet(loss_tol=0, **SHORT), 3),
    *(
        (RobustDiagonalNet(depth=depth, loss_tol=loss_tol, **SHORT), 2)
        for depth, loss_tol in ((2, 1e-3), (3, 0))
    ),
    (MinNormRobustClassifier(eps=0.05), 2),
    (MinNormRobustClassifier(p=1, eps=0.4), 2),
    (
        RobustLinearClassifierCV(
            (1, 2),
            eps=[0.05, 0.1],
            threat_eps=0.05,
            cv=2,
            solver="steepest_descent",
            loss_tol=0,
            max_iter=25,
        ),
        2,
    ),
]
LOOKS = [  # verbose; how the path is recorded; and who else looks
    (1, {"every": 7}, None),
    (2, {"every": 1}, ProgressBar),
    (
        0,
        {"store_coef": True},
        lambda: ScoringMonitor(scoring={"robust": make_robust_scorer(eps=0.05)}),
    ),
]


def assert_equal_fits(one, other):
    """Every fitted attribute, to the last bit; times and the estimators inside a search are no
    figures."""
    names = {name for name in vars(one) if name.endswith("_") or name in ("_loss", "_p")}
    assert names == {name for name in vars(other) if name.endswith("_") or name in ("_loss", "_p")}
    for name in names - {
        "cv_results_",
        "refit_time_",
        "scorer_",
        "best_estimator_",
        "best_params_",
    }:
        if name == "threat_":
            assert vars(one.threat_) == vars(other.threat_)
        else:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    if "cv_results_" in names:
        np.testing.assert_array_equal(
            one.cv_results_["mean_test_score"], other.cv_results_["mean_test_score"]
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn_robust.NotSeparableWarning")
@pytest.mark.parametrize(
    ("estimator", "n_classes"), MONITORED, ids=lambda value: " ".join(str(value).split())
)
def test_looking_at_a_fit_does_not_change_it(estimator, n_classes, data):
    X, y = data
    if n_classes == 3:
        y = y + 3 * (np.arange(len(X)) % 4 == 0)
    alone = clone(estimator).fit(X, y)
    for verbose, recorded, other in LOOKS:
        looked_at = clone(estimator)
        if "verbose" in estimator.get_params():
            looked_at.set_params(verbose=verbose)
        callbacks = [] if other is None else [other()]
        if estimator._reports_its_path:
            callbacks.append(PathRecorder(**recorded))
        assert_equal_fits(looked_at.set_callbacks(*callbacks).fit(X, y), alone)


def test_a_search_that_does_not_refit_has_no_score_to_monitor(data):
    monitor = ScoringMonitor(scoring="accuracy")
    RobustLinearClassifierCV(eps=[0.05], threat_eps=0.05, cv=2, refit=False).set_callbacks(
        monitor
    ).fit(*data)
    with pytest.raises(ValueError, match="No logs to retrieve"):
        monitor.get_logs()


def test_sample_weights_reach_the_scores(data):
    X, y = data
    weight = np.where(y > 0, 3.0, 0.5)
    monitor = ScoringMonitor(scoring="accuracy")
    model = RobustLinearClassifier(eps=0.4).set_callbacks(monitor).fit(X, y, sample_weight=weight)
    assert monitor.get_logs().data[0]["accuracy"] == pytest.approx(model.score(X, y, weight))
    assert model.score(X, y, weight) != pytest.approx(model.score(X, y))


@pytest.mark.slow
def test_scikit_learn_hands_callbacks_through_pipelines_and_searches(data, capsys):
    X, y = data
    pipeline = make_pipeline(StandardScaler(), RobustLinearClassifier(solver="exact"))
    search = GridSearchCV(pipeline, {"robustlinearclassifier__eps": [0.05, 0.4]}, cv=2)
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
    shown = capsys.readouterr().out
    assert "GridSearchCV - fit" in shown
    assert "RobustLinearClassifier - fit" in shown
    monitor = ScoringMonitor(scoring={"score": make_robust_scorer(eps=0.05)})
    pipeline[-1].set_callbacks(monitor)
    GridSearchCV(pipeline, {"robustlinearclassifier__eps": [0.05, 0.4]}, cv=2).fit(X, y)
    data = monitor.get_logs().data
    ends = [row for row in data if row["task_name"] == "fit"]
    assert len(ends) == 2 * 2 + 1  # folds and candidates, and the refit
    assert all(0 <= row["score"] <= 1 for row in data)


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("every", [None, 7])
def test_the_record_is_the_path(name, every, data, inseparable):
    X, y = inseparable if name == "robust_risk" else data
    estimator = (
        clone(ITERATIVE[name])
        if name != "robust_risk"
        else RobustLinearClassifier(eps=0.1, loss="logistic")
    )
    recorder = PathRecorder(every=every, store_coef=True)
    model = estimator.set_callbacks(recorder).fit(X, y)
    assert recorder.solver_ == name
    history = recorder.history_
    assert (np.diff(history["iteration"]) > 0).all()
    assert history["coef"].shape == (len(history["iteration"]), 1, X.shape[1])
    assert (history["gap"] >= 0).all()
    assert history["gap"][-1] == pytest.approx(model.dual_gap_, rel=1e-6, abs=1e-9)
    assert history["iteration"][-1] == model.n_iter_
    assert len(history["iteration"]) <= (60 if every is None else 2 + model.n_iter_ // every)
    if name != "accelerated":  # whose direction has no loss
        problem = RobustProblem.from_data(X, y, q=math.inf, eps=model.eps, fit_intercept=True)
        loss = LOSSES[model.loss]
        for log_risk, coef, intercept in zip(
            *(history[n] for n in ("log_risk", "coef", "intercept")), strict=True
        ):
            margins = problem.margins(coef, intercept)
            assert log_risk == pytest.approx(
                loss.log_risk_and_weights(margins, problem.log_weight)[0][0], rel=1e-9
            )
        assert history["log_risk"][-1] == pytest.approx(model.log_risk_)
        np.testing.assert_allclose(history["coef"][-1], model.coef_, rtol=1e-12)
    else:
        assert np.isnan(history["log_risk"]).all()
        cosine = (
            history["coef"][-1, 0]
            @ model.coef_[0]
            / np.linalg.norm(history["coef"][-1, 0])
            / np.linalg.norm(model.coef_)
        )
        assert cosine == pytest.approx(1)


JOINT = {
    "steepest_descent": RobustLinearClassifier(solver="steepest_descent", eps=0.02),
    "diagonal_descent": RobustDiagonalNet(eps=0.02),
    "robust_risk": RobustLinearClassifier(eps=0.1, loss="logistic"),
}


@pytest.mark.parametrize("name", JOINT)
def test_the_record_of_several_classes(name, data, inseparable):
    X = (inseparable if name == "robust_risk" else data)[0][:30]
    y = np.arange(len(X)) % 3
    recorder = PathRecorder(store_coef=True)
    model = clone(JOINT[name]).set_callbacks(recorder).fit(X, y)
    assert recorder.solver_ == name
    history = recorder.history_
    n_records = len(history["iteration"])
    assert n_records > 2
    assert history["coef"].shape == (n_records, *model.coef_.shape)
    assert history["intercept"].shape == (n_records, 3)
    assert history["iteration"][-1] == model.n_iter_
    figures = ("log_risk", "margin", "margin_bound", "gap")
    assert {history[figure].shape for figure in figures} == {(n_records,)}
    assert history["log_risk"][-1] == pytest.approx(model.log_risk_)
    np.testing.assert_allclose(history["coef"][-1], model.coef_, rtol=1e-9)
    if name != "robust_risk":
        assert history["margin"][-1] == pytest.approx(model.margin_, rel=1e-9)


def test_a_record_begins_anew_with_every_fit_and_travels(data):
    X, y = data
    recorder = PathRecorder()
    model = RobustLinearClassifier(eps=0.05, solver="steepest_descent").set_callbacks(recorder)
    first = model.fit(X, y) and recorder.history_
    again = model.fit(X, y) and recorder.history_
    np.testing.assert_array_equal(first["gap"], again["gap"])
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(recorder)).history_["gap"], again["gap"]
    )
    model.set_params(solver="exact").fit(X, y)
    assert recorder.solver_ is None
    assert recorder.history_ == {}


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_callback_may_stop_any_solver(name, data, inseparable):
    X, y = inseparable if name == "robust_risk" else data
    estimator = (
        clone(ITERATIVE[name])
        if name != "robust_risk"
        else RobustLinearClassifier(eps=0.1, loss="logistic")
    )
    stop = Stop()
    model = estimator.set_callbacks(stop).fit(X, y)  # without a warning: it was asked for
    full = clone(estimator).set_callbacks().fit(X, y)
    assert stop.ended == 2
    assert stop.torn_down
    assert model.n_iter_ < full.n_iter_
    assert model.predict(X).shape == y.shape
    assert not model.dual_gap_ < full.dual_gap_


@pytest.mark.parametrize("name", JOINT)
def test_a_callback_may_stop_a_fit_of_several_classes(name, data, inseparable):
    X = (inseparable if name == "robust_risk" else data)[0][:30]
    y = np.arange(len(X)) % 3
    stop = Stop()
    model = clone(JOINT[name]).set_callbacks(stop).fit(X, y)
    assert stop.ended <= 3  # the minimiser of the risk reports where it ends
    assert model.coef_.any()
    assert set(model.predict(X)) <= {0, 1, 2}
    assert not model.dual_gap_ < model.set_callbacks().fit(X, y).dual_gap_


def test_messages():
    with pytest.raises(ValueError, match="every must be an integer >= 1, got 0"):
        PathRecorder(every=0)
    with pytest.raises(
        TypeError,
        match=r"PathRecorder records the fits of linear classifiers .* RobustMLPClassifier",
    ):
        RobustMLPClassifier().set_callbacks(PathRecorder()).fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(TypeError, match="LogisticRegression"):
        LogisticRegression().set_callbacks(PathRecorder()).fit([[0.0], [1.0]], [0, 1])


@pytest.mark.parametrize("estimator", [MinNormRobustClassifier(), RobustLinearClassifier()])
def test_a_fit_begins_where_its_data_are_read(estimator):
    class Begins(Stop):
        def on_fit_task_begin(self, estimator, context):
            raise AssertionError

    with pytest.raises(ValueError, match="at least two classes"):
        estimator.set_callbacks(Begins()).fit([[0.0], [1.0]], [1, 1])
