"""Networks trained on what a torch Dataset or DataLoader brings."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from sklearn_robust import RobustMLPClassifier, RobustNetClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
Y = rng.integers(3, size=24)
X = rng.standard_normal((24, 4)) + 2 * np.eye(4)[Y]
WEIGHT = np.where(np.arange(24) % 5 == 0, 0.0, rng.uniform(0.5, 2, 24))
PAIRS = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
TRIPLES = TensorDataset(*PAIRS.tensors, torch.from_numpy(WEIGHT))


class Names(Dataset):
    """Samples read one by one, whose labels are texts."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i], "abc"[Y[i]]


class Stream(IterableDataset):
    def __iter__(self):
        return zip(torch.from_numpy(X), Y, strict=True)


def network(**parameters):
    shared = {
        "max_iter": 4,
        "loss_tol": 0,
        "batch_size": None,
        "attack_steps": 2,
        "random_state": 0,
    }
    return RobustMLPClassifier((5,), eps=0.1, **{**shared, **parameters})


def assert_alike(first, second):
    for one, other in zip(first.module_.parameters(), second.module_.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert first.classes_.tolist() == second.classes_.tolist()
    for name, values in first.history_.items():
        assert values == pytest.approx(second.history_[name])


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 0.0, 1: 1.0, 2: 3.0}])
@pytest.mark.parametrize("weighted", [False, True])
def test_all_samples_a_step_are_the_fit_on_arrays(weighted, class_weight):
    expected = network(class_weight=class_weight).fit(X, Y, WEIGHT if weighted else None)
    data = TRIPLES if weighted else PAIRS
    for loaded in (data, DataLoader(data, batch_size=24)):
        assert_alike(network(class_weight=class_weight).fit(loaded), expected)


def test_labels_of_any_kind_and_samples_of_any_shape():
    named = network().fit(Names())
    assert_alike(named, network().fit(X, np.array(list("abc"))[Y]))
    assert named.predict(X[:2]).tolist() == [
        named.classes_[k] for k in named.module_(torch.from_numpy(X[:2])).argmax(1)
    ]
    assert_alike(network().fit(Stream()), network().fit(X, Y))
    images = TensorDataset(PAIRS.tensors[0].view(-1, 1, 2, 2), PAIRS.tensors[1])
    net = RobustNetClassifier(eps=0.1, max_iter=2, random_state=0).fit(images)
    assert net.input_shape_ == (1, 2, 2)
    assert net.score(X.reshape(-1, 1, 2, 2), Y) == net.score(X, Y)


def test_batches_are_drawn_anew_and_seen_once_an_epoch():
    seen = []

    class Counted(Names):
        def __getitem__(self, i):
            seen.append(i)
            return super().__getitem__(i)

    network(batch_size=7, max_iter=2, learning_rate=0.1, standardize=False).fit(Counted())
    survey, first, second = (seen[i : i + 24] for i in (0, 24, 48))
    assert len(seen) == 72
    assert survey == list(range(24)) == sorted(first) == sorted(second)
    assert first != second != survey


def test_samples_are_held_out_and_training_goes_on():
    early = network(early_stopping=True, n_iter_no_change=2, validation_fraction=0.25)
    assert_alike(
        early.fit(Names()), early.__class__(**early.get_params()).fit(X, np.array(list("abc"))[Y])
    )
    further = network(max_iter=1)
    for _ in range(3):
        further.partial_fit(DataLoader(PAIRS, batch_size=24), classes=[0, 1, 2])
    assert further.n_iter_ == 3


@pytest.mark.parametrize(
    ("data", "parameters", "given", "message"),
    [
        (PAIRS, {}, {"y": Y}, "y must be left out where X is a TensorDataset"),
        (PAIRS, {}, {"sample_weight": WEIGHT}, "sample_weight must be left out"),
        (DataLoader(PAIRS), {"batch_size": 5}, {}, "batch_size=5 .* DataLoader.*loader.dataset"),
        (DataLoader(PAIRS), {"early_stopping": True}, {}, "early_stopping=True .* DataLoader"),
        (TensorDataset(torch.zeros(3, 2)), {}, {}, r"items of X must be \(x, y\)"),
        (
            TensorDataset(torch.full((3, 2), torch.nan), torch.arange(3)),
            {},
            {},
            "batch 0 of X contains NaN",
        ),
        (
            TensorDataset(*PAIRS.tensors, torch.full((24,), -1.0)),
            {},
            {},
            "sample_weight of batch 0 of X must be finite and >= 0",
        ),
        (TensorDataset(X_ := torch.zeros(3, 2), X_[:, 0]), {}, {}, "at least two classes"),
    ],
    ids=["y", "weight", "batch size", "held out", "items", "nan", "negative", "one class"],
)
def test_what_does_not_fit_is_refused_by_name(data, parameters, given, message):
    with pytest.raises(ValueError, match=message):
        network(**parameters).fit(data, **given)
