"""The paper's distributions."""

import numpy as np
import pytest

from sklearn_robust import make_teacher_classification


@pytest.mark.parametrize("teacher_sparsity", [None, 4])
@pytest.mark.parametrize("data_sparsity", [None, 4])
def test_distribution(teacher_sparsity, data_sparsity):
    X, y, teacher = make_teacher_classification(
        400,
        128,
        teacher_sparsity=teacher_sparsity,
        data_sparsity=data_sparsity,
        return_teacher=True,
        random_state=0,
    )
    np.testing.assert_array_equal(y, np.sign(X @ teacher))
    assert X.any(axis=1).all()
    assert teacher.any()
    if data_sparsity:
        assert set(np.unique(X)) == {-1.0, 0.0, 1.0}
        # conditioned on not being a tie the mean is a little above k
        assert 3.5 < np.count_nonzero(X, axis=1).mean() < 7
    else:
        assert abs(X.std() - 1) < 0.02
    if teacher_sparsity:
        assert set(np.unique(teacher)) <= {-1.0, 0.0, 1.0}


@pytest.mark.slow
def test_redrawing_ties_leaves_the_law_of_the_other_entries():
    X, y, teacher = make_teacher_classification(
        20_000, 64, teacher_sparsity=4, data_sparsity=4, return_teacher=True, random_state=0
    )
    np.testing.assert_array_equal(y, np.sign(X @ teacher))
    others = X[:, teacher == 0]
    rate, error = 4 / 64, np.sqrt(4 / 64 / others.size)
    assert abs((others == 1).mean() - rate / 2) < 4 * error
    assert abs((others == -1).mean() - rate / 2) < 4 * error
    # by brute force: samples of independent entries, kept where they are no tie
    signs = teacher[teacher != 0].astype(int)
    support = np.random.default_rng(1).choice(
        [-1, 0, 1], p=[rate / 2, 1 - rate, rate / 2], size=(400_000, len(signs))
    )
    kept = support[support @ signs != 0]
    counts = [np.abs(part).sum(axis=1).mean() for part in (X[:, teacher != 0], kept)]
    assert abs(counts[0] - counts[1]) < 0.02


def test_streams_are_independent():
    X, _, teacher = make_teacher_classification(50, 64, return_teacher=True, random_state=0)
    other, _, same = make_teacher_classification(
        100, 64, teacher=teacher, return_teacher=True, random_state=1
    )
    np.testing.assert_array_equal(same, teacher)
    assert not np.isin(X, other).any()
    again, _ = make_teacher_classification(50, 64, random_state=0)
    np.testing.assert_array_equal(X, again)
    # giving the teacher does not shift the stream of the samples
    given, _ = make_teacher_classification(50, 64, teacher=np.ones(64), random_state=0)
    np.testing.assert_array_equal(X, given)


def test_ties_can_be_labelled_negative_as_in_the_public_script():
    X, y, teacher = make_teacher_classification(
        2000,
        512,
        teacher_sparsity=4,
        data_sparsity=4,
        ties="negative",
        return_teacher=True,
        random_state=0,
    )
    assert (X @ teacher == 0).mean() > 0.9
    assert (y == -1).mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "n_samples must be an integer >= 1, got 0"),
        ({"teacher_sparsity": 600}, "teacher_sparsity must be at most n_features=512, got 600"),
        ({"data_sparsity": 0.5}, "data_sparsity must be an integer"),
        ({"ties": "positive"}, "ties must be one of"),
        ({"teacher": np.zeros(512)}, "teacher must be a non-zero vector"),
        (
            {"teacher": np.ones((1, 512))},
            r"teacher must be .* of shape \(512,\), got shape \(1, 512\)",
        ),
        ({"teacher": 1.0}, r"teacher must be .*, got shape \(\)"),
        ({"teacher": np.full(512, np.nan)}, "Input teacher contains NaN"),
        ({"teacher": np.full(512, np.inf)}, "Input teacher contains infinity"),
        (
            {"teacher": np.ones(512), "teacher_sparsity": 4},
            "teacher_sparsity=4 is for a teacher that is drawn",
        ),
    ],
)
def test_bad_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_teacher_classification(**arguments)
