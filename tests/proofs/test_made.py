"""Certificates are made from the data of the fit, which they let go, or refused by name."""

import pickle

import numpy as np
import pytest

from sklearn_robust import MinNormRobustClassifier, RobustLinearClassifier
from sklearn_robust.proofs import CertificateError, LabelledData
from sklearn_robust.separators import min_norm_separator

X = np.array([[3.0, 1.0], [-3.0, 1.0], [4.0, 0.0], [-2.0, 3.0]])
Y = np.array([1, -1, 1, -1])


def data_of(made):
    """The rows that an estimator or a separator refers to."""
    data = vars(made).get("_training") or vars(made).get("_data")
    return None if data is None else data[0]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: MinNormRobustClassifier(eps=0.5).fit(X, Y), "certificate_"),
        (lambda: min_norm_separator(X, Y, p=2, q=np.inf, eps=0.5), "certificate"),
    ],
)
def test_the_data_are_not_copied_and_are_let_go(make, name):
    made = make()
    assert np.shares_memory(data_of(made), X)
    alone = pickle.loads(pickle.dumps(made))
    assert data_of(alone) is None
    with pytest.raises(CertificateError, match="copie"):
        getattr(alone, name)
    certificate = getattr(made, name)
    assert certificate.check(X, Y).startswith("VALID")
    assert data_of(made) is None
    assert getattr(made, name) == getattr(pickle.loads(pickle.dumps(made)), name) == certificate


def test_a_new_fit_has_a_new_certificate_and_a_failed_one_the_last():
    model = MinNormRobustClassifier(eps=0.5).fit(X, Y)
    first = model.certificate_
    assert model.fit(X + 1.0, Y).certificate_ != first
    model.fit(X, Y)
    with pytest.raises(ValueError, match="two classes"):
        model.fit(X, np.ones(4))
    assert model.certificate_ == first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinNormRobustClassifier(q_pert=3, eps=0.5).fit(X, Y).certificate_, "q in"),
        (lambda: MinNormRobustClassifier(p=3, eps=0.5).fit(X, Y).certificate_, "p in"),
        (
            lambda: (
                RobustLinearClassifier(eps=0.5, loss="logistic")
                .fit(X, [1, -1, -1, 1], sample_radius=[1, 2, 1, 1])
                .certificate_
            ),
            "sample_radius",
        ),
    ],
)
def test_what_cannot_be_certified_is_refused(make, message):
    with pytest.raises(CertificateError, match=message):
        make()


def test_labels_that_are_one_as_text_are_refused():
    with pytest.raises(ValueError, match="differ as text"):
        LabelledData.of(X, np.array(["1", "1.0", "1", "2"]))
