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
    RobustLinearClassifierCV(2, eps=0.1, threat_eps=0.1, threat_q=2, cv=2, solver="exact"),
    MinNormRobustClassifier(),
    RobustDiagonalNet(max_iter=15),
    RobustMLPClassifier(batch_size=None, max_iter=15, attack_steps=1),
    RobustNetClassifier(
        p_algo=math.inf, loss="exponential", batch_size=None, max_iter=15, attack_steps=1
    ),
]

# further settings of estimators that pass every check: these checks fit and look at the results
SETTINGS = [
    RobustLinearClassifier(p_algo=1, loss="logistic", solver="steepest_descent", max_iter=5),
    RobustLinearClassifier(p_algo=math.inf, q_pert=2, max_iter=30),
    RobustLinearClassifier(solver="exact"),
    RobustLinearClassifier(q_pert=1, device="cpu", max_iter=5),
    RobustDiagonalNet(depth=3, q_pert=2, loss="logistic", max_iter=5),
    MinNormRobustClassifier(p=1, eps=0.01),
]
CHECKS_OF_RESULTS = {
    "check_classifier_data_not_an_array",
    "check_classifiers_classes",
    "check_classifiers_one_label_sample_weights",
    "check_classifiers_train",
    "check_decision_proba_consistency",
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
    "check_estimators_dtypes",
    "check_estimators_nan_inf",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_non_transformer_estimators_n_iter",
    "check_pipeline_consistency",
    "check_readonly_memmap_input",
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weights_not_overwritten",
}
CHECKS_OF_SOME = {  # dense data alone on a device; no classes weigh on a separator
    "check_class_weight_classifiers",
    "check_sample_weight_equivalence_on_sparse_data",
}

CHECKS_OF_WEIGHTS = {
    "check_all_zero_sample_weights_error",
    "check_classifiers_one_label_sample_weights",
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weights_list",
    "check_sample_weights_not_an_array",
    "check_sample_weights_not_overwritten",
    "check_sample_weights_pandas_series",
    "check_sample_weights_shape",
}
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


def run_checks(estimator, wanted):
    """Run these checks of an estimator; the names of those that it has."""
    run = set()
    for fresh, check in estimator_checks_generator(estimator):
        if check.func.__name__ in wanted:
            check(fresh)
            run.add(check.func.__name__)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("estimator", SETTINGS, ids=repr)
def test_scikit_learn_checks_of_results(estimator):
    run = run_checks(estimator, CHECKS_OF_RESULTS | CHECKS_OF_SOME)
    assert run >= CHECKS_OF_RESULTS
    assert run & CHECKS_OF_SOME


@pytest.mark.slow
def test_short_scikit_learn_checks_of_a_default_network():
    assert run_checks(RobustMLPClassifier(), SHORT_CHECKS) == SHORT_CHECKS


@pytest.mark.slow
def test_scikit_learn_checks_of_weights_of_a_network_trained_in_batches():
    network = RobustNetClassifier(p_algo=math.inf, loss="exponential", max_iter=8, attack_steps=1)
    assert run_checks(network, CHECKS_OF_WEIGHTS) == CHECKS_OF_WEIGHTS
