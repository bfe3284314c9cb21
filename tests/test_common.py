"""scikit-learn's own checks over every public estimator."""

import math

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from sklearn_robust import (
    MinNormRobustClassifier,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    RobustMLPClassifier,
    RobustNetClassifier,
)

OTHERS = [
    RobustLinearClassifier(p_algo=1, loss="logistic", solver="steepest_descent", max_iter=40),
    RobustLinearClassifier(p_algo=math.inf, q_pert=2, max_iter=100),
    RobustLinearClassifier(solver="exact"),
    RobustLinearClassifier(q_pert=1, device="cpu", max_iter=60),
    RobustLinearClassifierCV(
        (1, 2), eps=0.1, threat_eps=0.1, threat_q=2, cv=2, solver="exact", loss="logistic"
    ),
    MinNormRobustClassifier(),
    RobustDiagonalNet(),
    RobustDiagonalNet(depth=3, q_pert=2, loss="logistic", max_iter=50),
    MinNormRobustClassifier(p=1, eps=0.01),
    RobustMLPClassifier(batch_size=None, max_iter=20, attack_steps=2),
    RobustNetClassifier(
        p_algo=math.inf, loss="exponential", batch_size=None, max_iter=20, attack_steps=2
    ),
]

# checks of RobustMLPClassifier() that train not at all, or shortly
SHORT_CHECKS = {
    "check_all_zero_sample_weights_error",
    "check_class_weight_classifiers",
    "check_classifiers_classes",
    "check_classifiers_one_label",
    "check_classifiers_one_label_sample_weights",
    "check_classifiers_regression_target",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimators_empty_data_messages",
    "check_estimators_nan_inf",
    "check_estimators_partial_fit_n_features",
    "check_estimators_pickle",
    "check_estimators_unfitted",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_get_params_invariance",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_pipeline_consistency",
    "check_sample_weights_not_overwritten",
    "check_sample_weights_shape",
    "check_set_params",
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn_robust.NotSeparableWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::sklearn_robust.ConstantClassifierWarning"),
]


@parametrize_with_checks([RobustLinearClassifier()])
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(OTHERS)
def test_scikit_learn_check_of_other_estimators(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_short_scikit_learn_checks_of_a_default_network():
    run = set()
    for estimator, check in estimator_checks_generator(RobustMLPClassifier()):
        if check.func.__name__ in SHORT_CHECKS:
            check(estimator)
            run.add(check.func.__name__)
    assert run == SHORT_CHECKS


@pytest.mark.slow
def test_scikit_learn_checks_of_weights_of_a_network_trained_in_batches():
    network = RobustNetClassifier(p_algo=math.inf, loss="exponential", max_iter=40, attack_steps=3)
    run = set()
    for estimator, check in estimator_checks_generator(network):
        if "weight" in check.func.__name__:
            check(estimator)
            run.add(check.func.__name__)
    assert "check_class_weight_classifiers" in run
