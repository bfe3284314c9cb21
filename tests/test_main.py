"""The command line."""

import subprocess
import sys

import pytest

from sklearn_robust.__main__ import main


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
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.slow
def test_help():
    run = subprocess.run(
        [sys.executable, "-m", "sklearn_robust", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--dataset" in run.stdout
