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

ESTIMATORS = [
    RobustLinearClassifier(),
    RobustLinearClassifier(p_algo=1, loss="logistic", solver="steepest_descent"),
    RobustLinearClassifier(p_algo=math.inf, q_pert=2),
    RobustLinearClassifier(solver="exact"),
    RobustLinearClassifier(q_pert=1, device="cpu"),
    RobustLinearClassifierCV(p_algo=2, cv=2, solver="exact", threat_eps=0.1),
    RobustLinearClassifierCV(
        (1, 2), eps=(0.05, 0.1), threat_eps=0.1, threat_q=2, cv=2, solver="exact", loss="logistic"
    ),
    MinNormRobustClassifier(),
    RobustDiagonalNet(),
    RobustDiagonalNet(depth=3, q_pert=2, loss="logistic"),
    MinNormRobustClassifier(p=1, eps=0.01),
    RobustMLPClassifier(),
    RobustNetClassifier(p_algo=math.inf, loss="exponential"),
]


@pytest.mark.filterwarnings("ignore::sklearn_robust.NotSeparableWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn_robust.ConstantClassifierWarning")
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_check(estimator, check):
    check(estimator)
