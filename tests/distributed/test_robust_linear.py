"""The classifier on a local cluster against the one on arrays, and what goes wrong on clusters."""

import os
import pickle
import signal
from pathlib import Path

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed.comm.core import CommClosedError
from scipy import sparse
from sklearn.base import clone

import sklearn_robust
from sklearn_robust.distributed import (
    DaskReduction,
    LostClusterError,
    RobustLinearClassifier,
    reduction,
)
from sklearn_robust.distributed.chunks import read_chunks
from sklearn_robust.rows import Block, NpyRows, NpySource, Survey

N, D = 240, 4


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D))
    y = np.where(X[:, 0] + rng.standard_normal(N) > 0, "yes", "no")
    return X, y, rng.integers(0, 3, N)


class Drawn:
    """A source of two blocks drawn from a seed; `fault` is raised, or kills the worker once."""

    def __init__(self, seed, fault=None, once=None):
        self.seed, self.fault, self.once = seed, fault, once

    def __repr__(self):
        return f"Drawn({self.seed})"

    def blocks(self):
        if self.fault is not None:
            raise self.fault
        if self.once is not None and self.once.exists():
            self.once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        for k in range(2):
            X = np.random.default_rng([self.seed, k]).standard_normal((50, D))
            noise = np.random.default_rng([self.seed, k, 1]).standard_normal(50)
            yield X, X[:, 0] + noise > 0


def stacked(sources):
    blocks = [Block(*block) for source in sources for block in source.blocks()]
    return np.concatenate([b.X for b in blocks]), np.concatenate([b.y for b in blocks])


def same(model, expected):
    """The fits agree within their gaps."""
    assert model.separable_ is expected.separable_ is False
    assert model.dual_gap_ <= 1e-8
    assert model.log_risk_ == pytest.approx(expected.log_risk_, abs=1e-7)
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-3)
    np.testing.assert_allclose(model.intercept_, expected.intercept_, atol=1e-3)
    np.testing.assert_array_equal(model.classes_, expected.classes_)


# -- the answer


def test_arrays_with_weights_cut_elsewhere(dask_client, data, monkeypatch):
    """Each result is a sum, which is small: no samples reach this process."""
    sizes = []

    def spy(self, tasks, key, result=DaskReduction._result):
        found = result(self, tasks, key)
        sizes.append(len(pickle.dumps(found)))
        return found

    monkeypatch.setattr(DaskReduction, "_result", spy)
    monkeypatch.setattr(dask_client, "scatter", lambda *_, **__: pytest.fail("data were scattered"))
    monkeypatch.setattr(dask_client, "gather", lambda *_, **__: pytest.fail("data were gathered"))
    X, y, weight = data
    settings = {"eps": 0.05, "loss": "logistic", "q_pert": 2, "class_weight": "balanced"}
    lazy = da.from_array(X, chunks=(100, 3))
    model = RobustLinearClassifier(**settings, scale=[1, 0, 2, 1.0])
    model.fit(lazy, da.from_array(y, chunks=70), da.from_array(weight, chunks=100))
    expected = sklearn_robust.RobustLinearClassifier(**settings, scale=[1, 0, 2, 1.0])
    same(model, expected.fit(X, y, weight))
    assert 3 <= len(sizes) <= 15
    assert max(sizes) < 70 * D * 8
    monkeypatch.undo()
    for method in ("predict", "decision_function", "predict_proba", "predict_log_proba"):
        predicted, answer = getattr(model, method)(lazy), getattr(model, method)(X)
        assert isinstance(predicted, da.Array)
        assert (predicted.dtype, predicted.shape) == (answer.dtype, answer.shape)
        np.testing.assert_array_equal(predicted.compute(scheduler="sync"), answer)
    arrays = lazy, da.from_array(y, chunks=70)
    assert model.score(*arrays) == pytest.approx(model.score(X, y))
    assert model.robust_score(*arrays, eps=0.1) == pytest.approx(model.robust_score(X, y, eps=0.1))
    radii = model.certified_radius(*arrays, q=1).compute(scheduler="sync")
    np.testing.assert_allclose(radii, model.certified_radius(X, y, q=1), atol=1e-12)
    assert (model.certified_radius(lazy).compute(scheduler="sync") >= 0).all()
    moved = model.perturb(*arrays, eps=0.2)
    assert moved.shape == X.shape
    np.testing.assert_allclose(moved.compute(scheduler="sync"), model.perturb(X, y, eps=0.2))
    for unlabelled in (lazy, X):
        with pytest.raises(ValueError, match="y must be given"):
            model.perturb(unlabelled)
    assert clone(model.set_params(client=dask_client)).client is None
    assert pickle.loads(pickle.dumps(model)).client is None


def test_frames_and_separable_data(dask_client, data):
    X = data[0]
    frame = pd.DataFrame(X, columns=list("abcd")).assign(y=np.where(X[:, 0] > 0, "yes", "no"))
    kept = frame[abs(frame["a"]) > 0.2]
    lazy = dd.from_pandas(kept, npartitions=2)
    settings = {"eps": 0.01, "p_algo": 1, "loss_tol": 0}
    model = RobustLinearClassifier(client=dask_client, **settings)
    model.fit(lazy[list("abcd")], lazy["y"])
    expected = sklearn_robust.RobustLinearClassifier(solver="exact", **settings)
    expected.fit(kept[list("abcd")], kept["y"])
    assert model.feature_names_in_.tolist() == list("abcd")
    assert model.separable_ is True
    assert model.dual_gap_ <= 1e-8
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-6, atol=1e-9)
    assert model.log_risk_ == pytest.approx(expected.log_risk_)
    predicted = model.predict(lazy[list("abcd")]).compute(scheduler="sync")
    np.testing.assert_array_equal(predicted, kept["y"])


def test_sources_with_sparse_blocks_in_single_precision(dask_client, data, tmp_path):
    X, y, _ = data
    sources = []
    for k, at in enumerate(np.array_split(np.arange(N), 3)):
        paths = tmp_path / f"X{k}.npy", tmp_path / f"y{k}.npy"
        np.save(paths[0], X[at].astype(np.float32))
        np.save(paths[1], y[at])
        sources.append(NpyRows(*paths) if k == 0 else NpySource(*paths))
    model = RobustLinearClassifier(eps=0.05).fit(sources)
    same(model, sklearn_robust.RobustLinearClassifier(eps=0.05).fit(X.astype(np.float32), y))
    assert model.coef_.dtype == np.float32
    predicted = model.predict(sources).compute(scheduler="sync")
    np.testing.assert_array_equal(predicted, model.predict(X))
    parts = [dask.delayed(sparse.csr_array)(np.where(X[at] > 0, X[at], 0)) for at in (slice(N),)]
    chunks = [da.from_delayed(part, (N, D), dtype=float) for part in parts]
    found = DaskReduction(
        dask_client, read_chunks(da.concatenate(chunks), da.from_array(y, chunks=N))
    ).total(Survey.of)
    assert (found.is_sparse, found.n, found.n_entries) == (True, N, np.count_nonzero(X > 0))


def test_many_sources_share_tasks(dask_client, monkeypatch):
    lengths = []

    def spy(self, tasks, key, result=DaskReduction._result):
        lengths.append(len(tasks))
        return result(self, tasks, key)

    monkeypatch.setattr(DaskReduction, "_result", spy)
    sources = [Drawn(seed) for seed in range(50)]
    found = DaskReduction(dask_client, read_chunks(sources)).total(Survey.of)
    assert (found.n, len(lengths)) == (5000, 1)
    assert lengths[0] < 40  # with those that add sums up
    sources[17].fault = MemoryError("too much")
    with pytest.raises(MemoryError, match=r"source 17 \(Drawn\(17\)\): too much"):
        DaskReduction(dask_client, read_chunks(sources)).total(Survey.of)


def test_several_classes(dask_client, data, monkeypatch):
    """The fit of sums that are small, and predictions; a lost scheduler leaves a model."""
    X, _, weight = data
    y = np.array(["ash", "beech", "cedar"])[(X[:, :3] + weight[:, None]).argmax(axis=1)]
    y[:60] = np.roll(y[:60], 1)
    arrays = da.from_array(X, chunks=(100, 3)), da.from_array(y, chunks=100)
    settings = {"eps": 0.05, "loss": "logistic", "class_weight": "balanced", "tol": 1e-3}
    lost = RobustLinearClassifier(**settings)
    with monkeypatch.context() as patch:
        left = iter(range(6))

        def get(*args, get=dask_client.get, **options):
            if next(left, None) is None:
                raise CommClosedError("the stream is closed")
            return get(*args, **options)

        patch.setattr(dask_client, "get", get)
        with pytest.raises(LostClusterError) as caught:
            lost.fit(*arrays, da.from_array(weight + 1, chunks=100))
    model = caught.value.model
    assert model.coef_.shape == (3, D)
    model.set_params(client=dask_client).fit(*arrays, da.from_array(weight + 1, chunks=100))
    expected = sklearn_robust.RobustLinearClassifier(**settings).fit(X, y, weight + 1)
    assert model.separable_ is expected.separable_ is False
    assert model.dual_gap_ <= 1e-3
    assert model.log_risk_ == pytest.approx(expected.log_risk_, abs=2e-3)
    np.testing.assert_array_equal(model.classes_, expected.classes_)
    for method in ("predict", "decision_function", "predict_proba"):
        predicted = getattr(model, method)(arrays[0]).compute(scheduler="sync")
        np.testing.assert_array_equal(predicted, getattr(model, method)(X))
    assert model.robust_score(*arrays) == pytest.approx(model.robust_score(X, y))


def test_data_in_memory_are_fitted_here(data):
    X, y, _ = data
    expected = sklearn_robust.RobustLinearClassifier().fit(X, y)
    np.testing.assert_array_equal(RobustLinearClassifier().fit(X, y).coef_, expected.coef_)


# -- faults


def test_a_killed_worker_changes_nothing(dask_client, tmp_path):
    fuse = tmp_path / "fuse"
    sources = [Drawn(0), Drawn(1, once=fuse), Drawn(2)]
    seen = []

    class Lit(RobustLinearClassifier):
        def _solve_by_sums(self, fit, norm):
            fuse.touch()  # the survey is over: the next sweep loses a worker
            seen.append(fit)
            return super()._solve_by_sums(fit, norm)

    model = Lit(eps=0.05).fit(sources)
    assert len(seen) == 1
    assert not fuse.exists()
    same(model, sklearn_robust.RobustLinearClassifier(eps=0.05).fit(*stacked(map(Drawn, range(3)))))


def test_errors_name_their_chunk(dask_client, data, tmp_path):
    X, y, _ = data
    fit = RobustLinearClassifier().fit
    with pytest.raises(FileNotFoundError, match=r"source 1 \(NpySource\(.*There is no file .*Z.np"):
        fit([Drawn(0), NpySource(tmp_path / "Z.npy", tmp_path / "y.npy")])
    with pytest.raises(MemoryError, match=r"source 0 \(Drawn\(0\)\): too much"):
        fit([Drawn(0, MemoryError("too much"))])
    X[100, 2] = np.nan
    with pytest.raises(
        ValueError, match=r"chunk 1 of X \(rows 80 to 159\) holds nan in its row 20"
    ):
        fit(da.from_array(X, chunks=(80, D)), da.from_array(y, chunks=80))
    blocks = [dask.delayed(np.zeros)((3, D), kind) for kind in (np.float64, np.float32)]
    mixed = da.concatenate([da.from_delayed(b, (3, D), dtype=float) for b in blocks])
    with pytest.raises(ValueError, match=r"X of chunk 1 .* got dtype float32 after float64"):
        fit(mixed, da.from_array(y[:6], chunks=3))


def test_empty_chunks_and_chunks_of_one_class(dask_client, data):
    X, y, _ = data
    order = np.argsort(y)
    frame = pd.DataFrame(X[order], columns=list("abcd")).assign(y=y[order])
    lazy = dd.from_pandas(frame, npartitions=3)
    lazy = dd.concat([lazy, lazy[lazy["a"] > 9]])
    model = RobustLinearClassifier(eps=0.05).fit(lazy[list("abcd")], lazy["y"])
    same(model, sklearn_robust.RobustLinearClassifier(eps=0.05).fit(frame[list("abcd")], y[order]))


def test_a_lost_scheduler_leaves_a_model_that_goes_on(dask_client, data, monkeypatch):
    X, y, _ = data
    X, y = da.from_array(X, chunks=(120, D)), da.from_array(y, chunks=120)
    sweeps = []

    def lost(*args, get=dask_client.get, **options):
        sweeps.append(args)
        if len(sweeps) > 3:
            raise CommClosedError("the stream is closed")
        return get(*args, **options)

    monkeypatch.setattr(dask_client, "get", lost)
    with pytest.raises(LostClusterError, match="Start a cluster, and pass its client") as caught:
        RobustLinearClassifier().fit(X, y)
    monkeypatch.undo()
    model = caught.value.model
    assert model.warm_start
    assert model.coef_.any()
    model.set_params(client=dask_client).fit(X, y)
    assert model.dual_gap_ <= 1e-8


# -- what is refused


def test_what_a_cluster_does_not_serve_is_refused(dask_client, data):
    X, y, _ = data
    lazy, labels = da.from_array(X, chunks=(120, D)), da.from_array(y, chunks=120)
    with pytest.raises(ValueError, match="solver='accelerated' needs all samples in the memory"):
        RobustLinearClassifier(solver="accelerated").fit(lazy, labels)
    with pytest.raises(ValueError, match="device='cpu' is for data in memory"):
        RobustLinearClassifier(device="cpu").fit(lazy, labels)
    with pytest.raises(ValueError, match="y must hold the labels where X is a dask array"):
        RobustLinearClassifier().fit(lazy)
    with pytest.raises(TypeError, match="y must be a dask array, frame or series like X"):
        RobustLinearClassifier().fit(lazy, y)
    with pytest.raises(ValueError, match="an entry for each of the 240 rows of X, got 120"):
        RobustLinearClassifier().fit(lazy, labels[:120])
    with pytest.raises(ValueError, match="y must be left out where X is a list of sources"):
        RobustLinearClassifier().fit([Drawn(0)], y)


def test_without_a_client_the_error_says_how_to_start_one(monkeypatch):
    def no_client():
        raise ValueError("No global client found and no address provided")

    monkeypatch.setattr("distributed.get_client", no_client)
    with pytest.raises(ValueError, match=r"Start one: client = distributed.Client\(\)"):
        reduction.current_client()


def test_chunks_are_read_where_they_are_needed(tmp_path):
    """Making the chunks of sources opens no file."""
    sources = [NpySource(tmp_path / "missing.npy", tmp_path / "y.npy")]
    assert [chunk.name for chunk in read_chunks(sources)] == [f"source 0 ({sources[0]!r})"]
    assert not any(Path(tmp_path).iterdir())
