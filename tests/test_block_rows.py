"""Rows that are read a block at a time, of files and of sources written here, against the array."""

import math
import pickle

import hypothesis.strategies as st
import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from pyarrow import parquet
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_robust import (
    ConstantClassifierWarning,
    MinNormRobustClassifier,
    PathRecorder,
    RobustLinearClassifier,
    RobustLinearClassifierCV,
    certified_radius,
    min_norm_separator,
    robust_accuracy_score,
)
from sklearn_robust.linear_model import reading
from sklearn_robust.rows import (
    Block,
    BlockRows,
    GramRows,
    NpyRows,
    ParquetRows,
    SparseRows,
    arrays,
    files,
)
from sklearn_robust.rows.arrays import mean_square, squared_norm_bound
from sklearn_robust.solvers import _newton_columns
from sklearn_robust.threats import Box

NAMES = np.array(["ash", "beech", "cedar"])


def draw(n_classes=2, *, n=120, d=4, noise=1.0, seed=0):
    """Gaussian data with the labels of a noisy linear teacher."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) + np.array([3.0, 0, 0, 0])[:d]
    scores = (X - X.mean(axis=0)) @ rng.standard_normal((d, n_classes))
    scores += noise * rng.standard_normal(scores.shape)
    return X, NAMES[scores.argmax(axis=1)], rng.integers(0, 4, n).astype(float)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(files, "_READ_ENTRIES", 4 * 25)


def saved(folder, X, y, weight=None):
    """The rows of .npy files."""
    arrays = {"X": X, "y": y, "weight": weight}
    paths = [folder / f"{name}.npy" for name, x in arrays.items() if x is not None]
    for path in paths:
        np.save(path, arrays[path.stem])
    return NpyRows(*paths)


def write_parquet(folder, X, y, weight=None, n_files=2):
    """The files of a folder, and the rows of them."""
    columns = {f"x{j}": column for j, column in enumerate(X.T)} | {"kind": y}
    table = pyarrow.table(columns if weight is None else columns | {"weight": weight})
    for k, at in enumerate(np.array_split(np.arange(len(y)), n_files)):
        part = table.slice(at[0], len(at))
        parquet.write_table(part, folder / f"{k}.parquet", row_group_size=40)
    return ParquetRows(folder, label="kind", sample_weight=None if weight is None else "weight")


# -- the products


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sizes_of_sparse_rows_by_parts_are_those_of_all(monkeypatch, dtype):
    monkeypatch.setattr(arrays, "_ABSOLUTE_ENTRIES", 20)
    rng = np.random.default_rng(0)
    X = np.where(rng.uniform(size=(40, 5)) < 0.3, rng.standard_normal((40, 5)), 0).astype(dtype)
    W, A = rng.standard_normal((2, 5)).astype(dtype), rng.standard_normal((2, 40)).astype(dtype)
    rows = SparseRows(sparse.csr_array(X))
    found = rows.score_sizes(W), rows.sum_sizes(A)
    assert {part.dtype for part in found} == {X.dtype}
    np.testing.assert_allclose(found[0], abs(W) @ abs(X).T, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(found[1], abs(A) @ abs(X), rtol=1e-5, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 30), max_size=6).map(sorted),
    dtype=st.sampled_from(["float64", "float32", "int8", ">f4"]),
    is_sparse=st.booleans(),
)
def test_any_split_gives_the_products_of_the_array(parts, cuts, dtype, is_sparse):
    rng = np.random.default_rng(0)
    X = np.round(4 * rng.standard_normal((30, 5))).astype(dtype)
    y, c = np.where(rng.standard_normal(30) > 0, 1.0, -1.0), rng.uniform(size=30)
    kept = sparse.csr_array(X.astype("float32")) if is_sparse else X
    rows = BlockRows(parts(kept, y, cuts=cuts))
    assert isinstance(rows, GramRows)
    assert rows.shape == X.shape
    np.testing.assert_array_equal(rows.y, y)
    X = X.astype(float)
    W, A = rng.standard_normal((2, 5)), rng.standard_normal((2, 30))
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(rows.scores(W), W @ X.T, **close)
    np.testing.assert_allclose(rows.weighted_sum(A), A @ X, **close)
    np.testing.assert_allclose(rows.score_sizes(W), abs(W) @ abs(X).T, **close)
    np.testing.assert_allclose(rows.sum_sizes(A), abs(A) @ abs(X), **close)
    columns = np.array([0, 3])
    w = np.array([1.0, 0, 0, -2.0, 0])
    np.testing.assert_allclose(rows.scores_on(columns, w), X @ w, **close)
    assert rows.largest == abs(X).max()
    assert squared_norm_bound(rows) == pytest.approx((X**2).sum())
    centre = rows.mean()
    np.testing.assert_allclose(centre, 0 * centre if is_sparse else X.mean(axis=0), **close)
    assert mean_square(rows, centred=True) == pytest.approx(((X - centre) ** 2).sum() / 30)
    R = X[:, columns] - centre[columns]
    moments = rows.weighted_gram(columns, centre[columns], c, y, exact=True)
    for moment, expected in zip(moments, ((R.T * c) @ R, c @ R, (c * y) @ R), strict=True):
        np.testing.assert_allclose(moment, expected, **close)


@pytest.mark.parametrize("order", ["C", "F"])
def test_files_are_read_as_they_were_written(tmp_path, order):
    X, y, weight = draw()
    for dtype in (np.float32, np.float16, np.uint8):
        kept = np.asarray(abs(X), dtype, order=order)
        rows = saved(tmp_path, kept, y, weight)
        assert rows.dtype == np.float32
        assert len(list(rows.blocks())) == 5
        np.testing.assert_array_equal(np.concatenate([b.X for b in rows.blocks()]), kept)
        np.testing.assert_array_equal(rows.y, y)
        np.testing.assert_array_equal(rows.sample_weight, weight)
    assert pickle.loads(pickle.dumps(rows)).shape == rows.shape


# -- fits and scores


def same_fit(rows, X, y, weight, **parameters):
    """The fit of the rows, that equals the fit of the array."""
    model = RobustLinearClassifier(tol=1e-8, **parameters).fit(rows)
    expected = RobustLinearClassifier(tol=1e-8, **parameters).fit(X, y, weight)
    assert model.separable_ is expected.separable_ is False
    assert model.dual_gap_ <= 1e-8
    assert model.log_risk_ == pytest.approx(expected.log_risk_, abs=2e-8)
    np.testing.assert_array_equal(model.classes_, expected.classes_)
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=2e-3)
    return model


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
@pytest.mark.parametrize("q", [1, 2, np.inf])
def test_the_fit_of_a_file_is_that_of_the_array(tmp_path, loss, q):
    X, y, weight = draw()
    for fit_intercept, weights in ((True, None), (False, weight)):
        rows = saved(tmp_path, X, y, weights)
        settings = {"loss": loss, "q_pert": q, "eps": 0.05, "fit_intercept": fit_intercept}
        model = same_fit(rows, X, y, weights, **settings)
    np.testing.assert_array_equal(model.predict(rows), model.predict(X))
    np.testing.assert_allclose(model.decision_function(rows), model.decision_function(X))
    np.testing.assert_allclose(model.predict_proba(rows), model.predict_proba(X))
    assert model.robust_score(rows) == pytest.approx(model.robust_score(X, y, weight))


@pytest.mark.parametrize("loss", ["exponential", "logistic"])
def test_several_classes_scales_and_class_weights(tmp_path, loss):
    X, y, weight = draw(3)
    rows = write_parquet(tmp_path, X, y, weight)
    settings = {"loss": loss, "eps": 0.05, "class_weight": "balanced", "tol": 1e-5}
    model = RobustLinearClassifier(scale={"x1": 0.0, "x2": 2.0}, **settings).fit(rows)
    expected = RobustLinearClassifier(scale=[1.0, 0, 2, 1], **settings).fit(X, y, weight)
    assert model.feature_names_in_.tolist() == ["x0", "x1", "x2", "x3"]
    assert model.classes_.tolist() == NAMES.tolist()
    assert model.separable_ is False
    assert model.log_risk_ == pytest.approx(expected.log_risk_, abs=2e-5)
    frame = pyarrow.table({f"x{j}": column for j, column in enumerate(X.T)})
    assert model.predict(rows).tolist() == model.predict(frame).tolist()
    score = robust_accuracy_score(model, rows, eps=0.1)
    assert score == pytest.approx(
        robust_accuracy_score(expected, X, y, eps=0.1, sample_weight=weight), abs=0.01
    )


def test_two_classes_with_weights_of_all_kinds(tmp_path, monkeypatch):
    X, y, weight = draw()
    rows = saved(tmp_path, X, y, weight)
    for class_weight in ("balanced", {"ash": 2.0, "beech": 0.5}):
        settings = {"class_weight": class_weight, "scale": [1.0, 0, 2, 1], "eps": 0.05}
        same_fit(rows, X, y, weight, **settings)
    X, y, weight = draw(3)
    rows = saved(tmp_path, X, y, weight)  # without the third class, which has no weight
    model = same_fit(rows, X, y, weight, class_weight={"cedar": 0.0}, eps=0.05)
    assert model.classes_.tolist() == ["ash", "beech"]
    monkeypatch.setattr(_newton_columns, "_MOST_COLUMNS", 1)  # then L-BFGS-B on products
    RobustLinearClassifier(eps=0.05).fit(rows)


def test_what_a_fit_by_sums_reports(parts, tmp_path, capsys):
    X, y, _ = draw()
    rows = saved(tmp_path, X, y)
    recorder = PathRecorder()
    model = RobustLinearClassifier(eps=0.05, verbose=1).set_callbacks(recorder).fit(rows)
    assert recorder.solver_ == "robust_risk"
    assert recorder.history_["log_risk"][-1] == pytest.approx(model.log_risk_)
    assert "robust_risk ends" in capsys.readouterr().out
    with pytest.warns(ConstantClassifierWarning, match="learns nothing") as caught:
        RobustLinearClassifier(eps=5.0).fit(rows)
    with pytest.warns(ConstantClassifierWarning) as of_array:
        RobustLinearClassifier(eps=5.0).fit(X, y)
    assert str(caught[0].message) == str(of_array[0].message)
    X, y, _ = draw(3)
    with pytest.warns(ConstantClassifierWarning) as of_three:
        RobustLinearClassifier(eps=5.0).fit(BlockRows(parts(X, y, cuts=[50])))
    with pytest.warns(ConstantClassifierWarning) as of_array:
        RobustLinearClassifier(eps=5.0).fit(X, y)
    assert str(of_three[0].message) == str(of_array[0].message)
    again = RobustLinearClassifier(eps=0.05, warm_start=True).fit(rows).fit(rows)
    assert again.n_iter_ <= 2


def test_sparse_blocks_in_single_precision(parts, tmp_path):
    X, y, weight = draw()
    X = sparse.csr_array(np.where(X > 0.5, X, 0).astype(np.float32))
    rows = BlockRows(parts(X, y, weight, cuts=[50]))
    model = RobustLinearClassifier(eps=0.05, loss="logistic").fit(rows)
    expected = RobustLinearClassifier(eps=0.05, loss="logistic").fit(X, y, weight)
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-4)


def test_the_path_of_separable_rows(tmp_path):
    X, y, _ = draw(noise=0)
    rows = saved(tmp_path, X, y)
    settings = {"eps": 0.001, "loss_tol": 10, "max_iter": 200, "solver": "steepest_descent"}
    model = RobustLinearClassifier(**settings).fit(rows)
    expected = RobustLinearClassifier(**settings).fit(X, y)
    assert model.separable_ is True
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-6)
    assert 0 < model.margin_ <= model.margin_bound_


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss_tol", [1e-3, 0])
def test_separable_rows_end_at_the_exact_separator(tmp_path, dtype, loss_tol):
    X, y, _ = draw(noise=0)
    X = X.astype(dtype)
    settings = {"eps": 0.001, "loss_tol": loss_tol}
    model = RobustLinearClassifier(**settings).fit(saved(tmp_path, X, y))
    expected = RobustLinearClassifier(solver="exact", **settings).fit(X, y)
    assert model.separable_ is True
    assert model.dual_gap_ <= max(1e-8, 50 * np.finfo(dtype).eps)
    tol = {"rtol": 1e-6 if dtype == np.float64 else 1e-4}
    for name in ("coef_", "intercept_", "log_risk_", "margin_", "margin_bound_"):
        np.testing.assert_allclose(getattr(model, name), getattr(expected, name), **tol)


def test_a_fit_of_two_classes_keeps_no_number_of_a_sample(tmp_path):
    X, y, _ = draw()
    rows = saved(tmp_path, X, y)
    RobustLinearClassifier(eps=0.05).fit(rows)
    assert not any(np.size(value) == len(y) for value in vars(rows).values())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_search_of_blocks_is_that_of_the_array(parts, n_classes):
    X, y, weight = draw(n_classes)
    rows = BlockRows(parts(X, y, weight, cuts=[50]))
    settings = {"threat_eps": 0.1, "eps": [0.05], "p_algo": 2, "cv": 2, "loss": "logistic"}
    settings |= {"refit": n_classes == 2, "tol": 1e-2 if n_classes == 3 else 1e-3}
    model = RobustLinearClassifierCV(**settings).fit(rows)
    expected = RobustLinearClassifierCV(**settings).fit(X, y, weight)
    assert model.best_params_ == expected.best_params_
    scores = model.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    # several classes are the same within their gaps: a few samples may fall on the other side
    np.testing.assert_allclose(*scores, atol=1e-9 if n_classes == 2 else 0.1)
    if n_classes == 2:
        np.testing.assert_array_equal(model.predict(rows), model.predict(X))
    with pytest.raises(ValueError, match="y must be left out where X holds labels"):
        RobustLinearClassifierCV(**settings).fit(rows, y)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_large_arrays_keep_samples_of_weight_zero(monkeypatch, n_classes):
    X, y, weight = draw(n_classes)
    settings = {"eps": 0.05, "loss": "logistic", "class_weight": "balanced", "tol": 1e-6}
    expected = RobustLinearClassifier(**settings).fit(X, y, weight)
    monkeypatch.setattr(reading, "_MOST_COPIED", 0)
    monkeypatch.setattr(reading, "of_positive_weight", lambda *args: pytest.fail("X was copied"))
    model = RobustLinearClassifier(**settings).fit(np.asfortranarray(X), y, weight)
    assert model.separable_ is False
    assert model.log_risk_ == pytest.approx(expected.log_risk_, abs=2e-6)


def test_pipelines_are_scored_block_by_block(tmp_path):
    X, y, weight = draw(3)
    rows = saved(tmp_path, X, y, weight)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    for space in ("model", "input"):
        score = robust_accuracy_score(model, rows, eps=0.1, space=space)
        expected = robust_accuracy_score(model, X, y, eps=0.1, space=space, sample_weight=weight)
        assert score == pytest.approx(expected)
        np.testing.assert_allclose(
            certified_radius(model, rows, space=space), certified_radius(model, X, y, space=space)
        )


# -- what is refused


def test_what_rows_in_blocks_do_not_serve_is_refused(tmp_path):
    X, y, _ = draw()
    rows = saved(tmp_path, X, y)
    model = RobustLinearClassifier()
    with pytest.raises(ValueError, match="y must be left out where X holds labels"):
        model.fit(rows, y)
    with pytest.raises(ValueError, match="y must be left out where X holds labels"):
        robust_accuracy_score(model.fit(X, y), rows, y, eps=0.1)
    with pytest.raises(ValueError, match="with scale or threat needs the data in memory"):
        MinNormRobustClassifier(threat=Box(-0.1, 0.1)).fit(rows)
    with pytest.raises(ValueError, match="device='cpu' needs the data in memory"):
        RobustLinearClassifier(device="cpu").fit(rows)
    with pytest.raises(ValueError, match="y must be left out where X holds labels"):
        min_norm_separator(rows, np.ones(120), p=2, q=2, eps=0.1)
    with pytest.raises(ValueError, match="y must be left out where X holds labels"):
        MinNormRobustClassifier().fit(rows, y)
    with pytest.raises(TypeError, match=r"must have a method blocks\(\)"):
        BlockRows(X)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: b._replace(X=np.where(np.eye(60, 4, k=-1) > 0, np.nan, b.X)),
            "nan in its row 1, column 0",
        ),
        (
            lambda b: b._replace(X=b.X[:, :3]),
            r"block 1 \(rows 60 to 119\) .* got features 3 after 4",
        ),
        (lambda b: b._replace(X=b.X.astype("float32")), "got dtype float32 after float64"),
        (lambda b: b._replace(X=sparse.csr_array(b.X)), "got kind a sparse array after a dense"),
        (lambda b: b._replace(X=b.X.astype(str)), "must be a table of numbers"),
        (lambda b: b._replace(y=b.y[1:]), r"one label for each of its 60 rows, got shape \(59,\)"),
        (lambda b: b._replace(y=np.ones(60)), "holds 1.0 beside 'ash': use numbers alone"),
        (lambda b: b._replace(y=np.array([*b.y[1:], None])), "missing labels"),
        (lambda b: b._replace(sample_weight=np.ones(60)), "has a sample_weight, unlike the"),
    ],
)
def test_a_block_that_does_not_fit_is_named(parts, change, message):
    X, y, _ = draw()

    class Changed(parts):
        def blocks(self):
            first, second = (Block(*each) for each in super().blocks())
            yield first
            yield change(second)

    with pytest.raises(ValueError, match=message):
        BlockRows(Changed(X, y, cuts=[60]))


def test_weights_of_a_block_are_checked(parts):
    X, y, weight = draw()
    weight[70] = -1
    with pytest.raises(ValueError, match=r"sample_weight of block 1 .* must hold a finite number"):
        BlockRows(parts(X, y, weight, cuts=[60]))
    with pytest.raises(ValueError, match=r"sample_weight .* must not be all zero"):
        RobustLinearClassifier().fit(BlockRows(parts(X, y, 0 * abs(weight), cuts=[60])))
    with pytest.raises(ValueError, match="must hold at least one sample"):
        BlockRows(parts(X[:0], y[:0], cuts=[]))


def test_a_source_that_changes_is_noticed(parts):
    X, y, _ = draw()
    source = parts(X, y, cuts=[60])
    rows = BlockRows(source)
    source.arrays = X[:-1], y[:-1], None
    with pytest.raises(ValueError, match=r"it held 120 rows .* and now it ends after 119 rows"):
        rows.scores(np.ones((1, 4)))
    source.arrays = np.vstack([X, X]), np.append(y, y), None
    with pytest.raises(ValueError, match=r"block 1 .* brings 240 rows"):
        rows.weighted_sum(np.ones((1, 120)))


def test_files_that_cannot_be_read_are_named(tmp_path):
    X, y, _ = draw()
    rows = saved(tmp_path, X, y)
    with pytest.raises(FileNotFoundError, match=r"There is no file .*Z\.npy"):
        NpyRows(tmp_path / "Z.npy", tmp_path / "y.npy")
    np.save(tmp_path / "short.npy", y[:-1])
    with pytest.raises(
        ValueError, match=r"short\.npy must have one entry for each of the 120 rows"
    ):
        NpyRows(tmp_path / "X.npy", tmp_path / "short.npy")
    with pytest.raises(
        ValueError, match=r"y\.npy must hold a table of numbers, got shape \(120,\)"
    ):
        NpyRows(tmp_path / "y.npy", tmp_path / "y.npy")
    (tmp_path / "text.npy").write_text("1,2,3")
    with pytest.raises(ValueError, match=r"text\.npy must be a \.npy file"):
        NpyRows(tmp_path / "text.npy", tmp_path / "y.npy")
    written = (tmp_path / "X.npy").read_bytes()
    (tmp_path / "half.npy").write_bytes(written[: len(written) // 2])
    with pytest.raises(ValueError, match=r"half\.npy .* was not written to its end"):
        NpyRows(tmp_path / "half.npy", tmp_path / "y.npy")
    X[100, 1] = math.inf
    np.save(tmp_path / "inf.npy", X)
    with pytest.raises(
        ValueError, match=r"inf\.npy \(rows 100 to 119\) holds inf in its row 0, col"
    ):
        NpyRows(tmp_path / "inf.npy", tmp_path / "y.npy")
    np.save(tmp_path / "X.npy", X[:60])
    with pytest.raises(ValueError, match=r"X\.npy has changed since its rows were first read"):
        rows.scores(np.ones((1, 4)))
    (tmp_path / "X.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"X\.npy"):
        RobustLinearClassifier().fit(rows)


def test_parquet_files_that_cannot_be_read_are_named(tmp_path):
    X, y, _ = draw()
    with pytest.raises(FileNotFoundError, match="without any"):
        ParquetRows(tmp_path, label="kind")
    write_parquet(tmp_path, X, y)
    with pytest.raises(ValueError, match=r"label must name a column of .*0\.parquet, got 'tree'"):
        ParquetRows(tmp_path, label="tree")
    with pytest.raises(ValueError, match=r"Column 'kind' of .* must hold numbers, got string"):
        ParquetRows([tmp_path / "1.parquet"], label="x0")
    other = pyarrow.table({"x0": [1.0], "kind": ["ash"]})
    parquet.write_table(other, tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=r"2\.parquet must have the columns and types of .*0\.par"):
        ParquetRows(tmp_path, label="kind")
    missing = pyarrow.table({"x0": [1.0, None], "kind": ["ash", None]})
    parquet.write_table(missing, tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=r"2\.parquet \(rows 0 to 1\) holds nan in its row 1, col"):
        ParquetRows(tmp_path / "2.parquet", label="kind")
    (tmp_path / "2.parquet").write_text("no")
    with pytest.raises(ValueError, match=r"2\.parquet must be a Parquet file"):
        ParquetRows(tmp_path / "2.parquet", label="kind")
