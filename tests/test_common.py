"""scikit-learn's own checks over every public estimator."""

import math

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_robust import (
    MinNormRobustClassifier,
    RobustDiagonalNet,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    RobustMLPClassifier,
    RobustNetClassifier,
)

OTHERS = [
    RobustLinearClassifier(p_algo=1, loss="logistic", solver="steepest_descent"),
    RobustLinearClassifier(p_algo=math.inf, q_pert=2),
    RobustLinearClassifier(solver="exact"),
    RobustLinearClassifier(q_pert=1, device="cpu", max_iter=300),
    RobustLinearClassifierCV(p_algo=2, eps=(0.05, 0.1), cv=2, solver="exact", threat_eps=0.1),
    RobustLinearClassifierCV(
        (1, 2), eps=0.1, threat_eps=0.1, threat_q=2, cv=2, solver="exact", loss="logistic"
    ),
    MinNormRobustClassifier(),
    RobustDiagonalNet(),
    RobustDiagonalNet(depth=3, q_pert=2, loss="logistic"),
    MinNormRobustClassifier(p=1, eps=0.01),
    RobustMLPClassifier(max_iter=40, attack_steps=3),
    RobustNetClassifier(p_algo=math.inf, loss="exponential", max_iter=40, attack_steps=3),
]


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
