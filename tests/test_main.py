"""The command line."""

import json
import runpy
import sys

import numpy as np
import pandas as pd
import pytest

from sklearn_robust.__main__ import main
from sklearn_robust._command_line import own_table


@pytest.mark.slow
def test_a_small_run_prints_both_tables(capsys):
    assert main(["--eps", "0.3", "--grid", "0.3", "--quiet"]) == 0
    captured = capsys.readouterr()
    rows = [line.split() for line in captured.out.splitlines() if line.startswith("0.3 ")]
    assert len(rows) == 6
    robust = {" ".join(row[1:-2]): float(row[-1]) for row in rows}
    assert robust["RobustLinearClassifier, p=2"] > robust["LogisticRegression"] + 5
    price = {row.split()[0]: float(row.split()[-2]) for row in captured.out.splitlines()[-3:]}
    assert price["1"] > price["2"] + 15
    assert captured.err == ""


@pytest.mark.parametrize(
    "arguments", [["--q", "0.5"], ["--eps", "-1"], ["--dataset", "mnist"], ["--grid", "x"]]
)
def test_wrong_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert f"argument {arguments[0]}:" in capsys.readouterr().err


def test_help(monkeypatch, capsys):
    """As python -m runs it."""
    monkeypatch.setattr(sys, "argv", ["sklearn_robust", "--help"])
    monkeypatch.delitem(sys.modules, "sklearn_robust.__main__")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("sklearn_robust", run_name="__main__")
    assert stopped.value.code == 0
    assert "--dataset" in capsys.readouterr().out


@pytest.fixture
def table(tmp_path):
    """Two numeric columns, one of categories of which one is pure and one of few rows, one of truth
    values, and gaps. The name of a numeric column is that of a category.
    """
    rng = np.random.default_rng(0)
    n = 160
    age, job = rng.normal(40, 10, n), rng.choice(["a", "b", "c"], n)
    good = np.where((age - 40) / 10 + (job == "a") + rng.normal(0, 0.5, n) > 0.3, "yes", "no")
    job[np.flatnonzero(good == "yes")[:20]] = "only yes"
    columns = {"row": np.arange(n), "age": age, "job_a": rng.normal(0, 1, n), "job": job}
    frame = pd.DataFrame({**columns, "new": rng.random(n) < 0.5, "good": good})
    frame = frame.astype({"job": object})
    frame.loc[::17, "age"] = np.nan
    frame.loc[5::23, "job"] = None
    frame.loc[3, "good"] = None
    path = tmp_path / "own.csv"
    frame.to_csv(path, index=False)
    return path


def test_a_table_of_ones_own(table, capsys):
    report = table.with_suffix(".json")
    arguments = [table, "--target", "good", "--drop", "row", "--eps", "0.2", "--report", report]
    assert main([*map(str, arguments), "--quiet"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("left out: 1 of 160.")
    assert printed[1].endswith(
        "159 rows, 2 numeric and 2 categorical columns; good: no 83, yes 76."
    )
    assert printed[2].startswith("Missing values: 17,")
    rows = [line.split() for line in printed if line.startswith("0.2 ")]
    assert [row[1] for row in rows] == ["LogisticRegression", "RobustLinearClassifierCV"]
    content = json.loads(report.read_text())
    figures = content["threats"][1]["groups"]["all"]["figures"]
    assert float(rows[1][-1]) == pytest.approx(100 * figures["robust accuracy"]["value"], abs=0.06)
    moved = {name for name, share in content["threats"][1]["groups"]["all"]["features"] if share}
    assert moved
    assert moved <= {"age", "job_a"}


@pytest.mark.parametrize(
    ("text", "numeric", "labels"),
    [
        ("x;y;label\n1,5;a;01\n2,5;b;1\n", ["x"], ["01", "1"]),
        ("x;y;label\n1.5;a;01\n2.5;b;1\n", ["x"], ["01", "1"]),
        ("x\ty\tlabel\n1,5\ta\t 0\n2\t1\t1\n", ["x"], ["0", "1"]),
        ("\ufeffx, y, label\n1, True, no \n, , yes\n3, , None\n", ["x"], ["no", "yes"]),
    ],
)
def test_tables_of_other_programs(text, numeric, labels, tmp_path, capsys):
    """Each row written five times: between semicolons, with either decimal point, or tabs. What is
    read in another way than it may be meant is said.
    """
    path, lines = tmp_path / "own.csv", text.splitlines(keepends=True)
    path.write_text(lines[0] + 5 * "".join(lines[1:]))
    X, y = own_table._read(str(path), "label", [])
    assert own_table._numeric(X) == numeric
    assert y[:2].tolist() == labels
    assert {type(value) for value in X["y"].dropna()} == {str}
    printed = capsys.readouterr().out
    assert ("The comma is taken as the decimal point" in printed) == ("1,5" in text)
    assert ("left out: 5 of 15" in printed) == ("None" in text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--target": None}, "--target must name the column of the labels, one of: row, age"),
        ({"--target": "colour"}, "there is no column 'colour'"),
        ({"--target": "row"}, "160 distinct values"),
        ({"--drop": ["age", "job_a", "row"]}, "no numeric column"),
        ({"--report": "report.txt"}, "must end with .html"),
        ({"--report": "no/such/folder/report.md"}, "there is no folder"),
        ({"table": "nowhere.csv"}, "cannot be read: No such file"),
        ({"text": b"x,good\n1e200,a\n"}, "column 'x' holds 1e+200: leave"),
        ({"text": b"x,good\n1,a,\n"}, "more fields in a line than columns"),
        ({"text": "x,good\n1,a\n".encode("utf-16")}, "is not UTF-8 text"),
    ],
)
def test_an_unsuitable_table_exits_with_2(table, change, words, capsys):
    given = {"table": str(table), "--target": "good", "--report": str(table) + ".md"} | change
    text = given.pop("text", b"")
    if text:
        head, *lines = text.splitlines(keepends=True)
        table.write_bytes(head + 5 * b"".join([*lines, lines[0].replace(b"a", b"b")]))
    arguments = [given.pop("table")]
    for name, value in given.items():
        if value is not None:
            arguments += [name, *([value] if isinstance(value, str) else value)]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())
