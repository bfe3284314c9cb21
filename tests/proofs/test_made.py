"""Certificates are made from the data of the fit, which they let go, or refused by name."""

import pickle

import numpy as np
import pytest

from sklearn_robust import MinNormRobustClassifier, RobustLinearClassifier
from sklearn_robust.metrics import robust_accuracy_certificate
from sklearn_robust.proofs import CertificateError, Claim, LabelledData, certify_accuracy
from sklearn_robust.rows import BlockRows
from sklearn_robust.separators import max_margin, min_norm_separator
from sklearn_robust.threats import Box, ByClass, Ellipsoid, FeatureBudget, LpBall

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


NOISY = np.array([1, -1, -1, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinNormRobustClassifier(q_pert=3, eps=0.5).fit(X, Y).certificate_, "q=3 cannot"),
        (lambda: MinNormRobustClassifier(p=3, eps=0.5).fit(X, Y).certificate_, "p in"),
        (
            lambda: fitted(Ellipsoid(0.1 * np.eye(2)), X, NOISY).certificate_,
            "threat=Ellipsoid: this set cannot",
        ),
        (lambda: fitted(Box(0, np.inf), X, NOISY).certificate_, "bounds that are infinite"),
        (
            lambda: fitted(FeatureBudget(1, binary=True), X > 2, NOISY).certificate_,
            "Flips differ from sample to sample",
        ),
        (
            lambda: certified_accuracy(LpBall(2, 0.1, clip=(-9, 9))),
            "limits of balls other than q=inf",
        ),
        (
            lambda: certified_accuracy(ByClass(LpBall(2, 0.1), 1) + LpBall(1, 0.1)),
            "threat=Sum: this set cannot",
        ),
        (
            lambda: certified_accuracy(FeatureBudget(1, binary=True), X > 2, np.ones(4)),
            "flips with sample_radius",
        ),
        (
            lambda: max_margin(X, Y, threat=Box(-1, 1, clip=(-9, 9))).certificate,
            "Sets with limits have no multiples",
        ),
        (
            lambda: max_margin(X, Y, q=2, scale=[0.0, 1.0]).certificate,
            "An infinite margin has no certificate",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_certified_is_refused(make, message):
    with pytest.raises(CertificateError, match=message):
        make()


def fitted(threat, X, y):
    """A classifier trained against a set."""
    return RobustLinearClassifier(threat=threat, loss="logistic").fit(np.asarray(X, float), y)


def certified_accuracy(threat, X=X, sample_radius=None):
    """The certificate of a score against a set."""
    model = RobustLinearClassifier(eps=0.1).fit(np.asarray(X, float), NOISY)
    options = {"threat": threat, "sample_radius": sample_radius}
    return robust_accuracy_certificate(model, np.asarray(X, float), NOISY, **options)


def test_rows_in_blocks_have_certificates_of_their_own():
    class Halves:
        def blocks(self):
            yield from ((X[:2], y[:2]), (X[2:], y[2:]))

    y = Y
    rows = BlockRows(Halves())
    separator = min_norm_separator(rows, p=2, q=np.inf, eps=0.5)
    assert separator.certificate.check(X, y) == separator.certificate.check(rows, None)
    y = NOISY
    model = RobustLinearClassifier(eps=0.5, class_weight={1: 2.0, -1: 1.0})
    first = model.fit(np.vstack([X, X]), np.tile(NOISY, 2)).certificate_
    again = model.fit(BlockRows(Halves())).certificate_
    assert again.content["weight"] == [float(2 if k == 1 else 1).hex() for k in NOISY]
    assert again.lower == pytest.approx(first.lower)
    assert again.check(X, NOISY).startswith("VALID")
    scored = robust_accuracy_certificate(model, BlockRows(Halves()), eps=0.1)
    assert scored == robust_accuracy_certificate(model, X, NOISY, eps=0.1)


def test_the_largest_factor_of_data_that_are_not_separable_is_0():
    certificate = max_margin(X, NOISY, q=2).certificate
    assert certificate.content["predictor"] is None
    assert certificate.lower == 0
    assert certificate.upper < 1e-9
    assert certificate.check(X, NOISY).startswith("VALID 0.0 <= factor")


def test_labels_that_are_one_as_text_are_refused():
    with pytest.raises(ValueError, match="differ as text"):
        LabelledData.of(X, np.array(["1", "1.0", "1", "2"]))


def test_what_exact_arithmetic_cannot_hold_is_refused_with_its_cause():
    claim = Claim(LabelledData.of(X, Y), LpBall(2, 0.1), np.array([[1.0, np.inf]]), np.zeros(1))
    with pytest.raises(CertificateError, match="cannot be written in exact arithmetic") as refusal:
        certify_accuracy(claim)
    assert isinstance(refusal.value.__cause__, ArithmeticError)
