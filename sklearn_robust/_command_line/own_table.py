"""A robust classifier for a table of one's own, and the report of its robustness.

The threat is an l_q ball: the adversary moves numeric columns, in units of their standard
deviations, and no categorical one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklearn_robust import RobustLinearClassifierCV, robust_accuracy_score
from sklearn_robust._command_line.terminal import Progress, print_table
from sklearn_robust._extras import missing
from sklearn_robust.reports import RobustnessReport
from sklearn_robust.threats import LpBall

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_DEFAULT_RADII = (0.1, 0.2)
_HELD_OUT = 0.25  # the share of the rows that only the scores and the report see
_FOLDS = 5
_MOST_CATEGORIES = 20  # in one column; the rarer ones are taken together
_MOST_CLASSES = 50
_MOST_NAMES = 20  # columns that a message names
_LARGEST = 1e100  # squares of larger numbers are infinite, or nearly


class UnsuitableTable(ValueError):
    """The table, or what was said about it, cannot be used; the text says why and what to do."""


def run(arguments: argparse.Namespace, progress: Progress) -> None:
    """Read the table, choose classifiers on three quarters of its rows, report on the rest."""
    _check_report_path(arguments.report)
    X, y = _read(arguments.table, arguments.target, arguments.drop)
    numeric = _numeric(X)
    categorical = [name for name in X.columns if name not in numeric]
    _say_what_was_read(arguments, X, y, numeric, categorical)
    if not numeric:
        raise UnsuitableTable(
            f"{arguments.table} has no numeric column beside {arguments.target!r}: there is "
            "nothing that the adversary moves. Write a column of numbers, with a point as the "
            "decimal separator."
        )
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=_HELD_OUT, stratify=y, random_state=arguments.seed
    )
    columns = _columns(numeric, categorical).fit(X_train)
    width = columns.transform(X_train[:1]).shape[1]
    # numeric columns come first: they can move, the columns of categories cannot
    scale = (np.arange(width) < len(numeric)).astype(float)
    radii = sorted(set(arguments.eps or _DEFAULT_RADII))
    plain = make_pipeline(columns, LogisticRegression(max_iter=5000)).fit(X_train, y_train)
    rows, robust = [], plain
    for eps in progress(radii, "robust classifiers by cross-validation"):
        threat = LpBall(arguments.q, eps, scale)
        robust = _chosen(columns, threat, X_train, y_train)
        for name, model in (("LogisticRegression", plain), ("RobustLinearClassifierCV", robust)):
            clean = model.score(X_test, y_test)
            worst = robust_accuracy_score(model, X_test, y_test, threat=threat)
            rows.append((f"{eps:g}", name, f"{100 * clean:.1f}", f"{100 * worst:.1f}"))
    print_table(("eps", "classifier", "clean %", "robust %"), rows)
    report = RobustnessReport(
        robust,
        X_test,
        np.asarray(y_test),
        threats=[LpBall(arguments.q, eps, scale) for eps in radii],
        title=f"Robustness of a linear classifier of {arguments.target}",
    )
    report.save(arguments.report)
    print(
        f"\n{arguments.report}: the report of the classifier chosen for eps={radii[-1]:g}, on the "
        f"{len(y_test)} rows held out."
    )


def _check_report_path(path: str) -> None:
    """Say before the work, not after it, that the report cannot be written."""
    if Path(path).suffix not in {".html", ".md", ".json"}:
        raise UnsuitableTable(f"--report must end with .html, .md or .json, got {path}.")
    if not Path(path).resolve().parent.is_dir():
        raise UnsuitableTable(f"--report: there is no folder {Path(path).resolve().parent}.")


def _read(path: str, target: str | None, drop: list[str]) -> tuple[DataFrame, Series]:
    """The columns of the table, and the labels as text; rows without a label are left out."""
    try:
        import pandas as pd
    except ImportError as error:
        raise UnsuitableTable(str(missing("a table", "table"))) from error
    try:
        table = _table(path, target)
    except UnicodeDecodeError as error:
        raise UnsuitableTable(f"{path} is not UTF-8 text: save the table as CSV, UTF-8.") from error
    except OSError as error:
        raise UnsuitableTable(f"{path} cannot be read: {error.strerror or error}.") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise UnsuitableTable(
            f"{path} cannot be read as CSV: {str(error).strip()}. Its first line must name the "
            "columns, and each further line hold a field for each of them."
        ) from error
    named = ", ".join(map(str, table.columns[:_MOST_NAMES]))
    if len(table.columns) > _MOST_NAMES:
        named += f" and {len(table.columns) - _MOST_NAMES} more"
    if target is None:
        raise UnsuitableTable(f"--target must name the column of the labels, one of: {named}.")
    for name in (target, *drop):
        if name not in table.columns:
            raise UnsuitableTable(
                f"there is no column {name!r} in {path}, whose first line names: {named}."
            )
    unlabelled = table[target].isna()
    if unlabelled.any():
        print(
            f"Rows without a label (an empty field, NA, None and the like), which are left out: "
            f"{unlabelled.sum()} of {len(table)}."
        )
    table = table[~unlabelled]
    y = table[target].str.strip()
    counts = y.value_counts()
    if len(counts) > _MOST_CLASSES:
        raise UnsuitableTable(
            f"{target!r} has {len(counts)} distinct values, more than {_MOST_CLASSES}: choose a "
            "column of classes by --target."
        )
    if len(counts) < 2:
        raise UnsuitableTable(
            f"{target!r} holds {len(counts)} classes: at least two are needed. Choose another "
            "column by --target."
        )
    if counts.min() < 4:
        raise UnsuitableTable(
            f"class {counts.idxmin()!r} of {target!r} has {counts.min()} rows: at least 4 are "
            "needed. Join or remove rare classes."
        )
    X = table.drop(columns=[target, *drop])
    for name in _numeric(X):
        if X[name].abs().max() > _LARGEST:
            raise UnsuitableTable(
                f"column {name!r} holds {X[name].abs().max():g}: leave such a field empty, or the "
                "column out by --drop."
            )
    for name in X.columns.difference(_numeric(X)):
        X[name] = X[name].map(str, na_action="ignore")  # True and False are categories
    return X.loc[:, X.notna().any()], y  # an empty column says nothing


def _table(path: str, target: str | None) -> DataFrame:
    """The table between commas, semicolons or tabs, with the labels as they are written.

    Between others than commas the comma may be the decimal point: that which makes more columns
    numeric is.
    """
    import pandas as pd

    head = pd.read_csv(path, nrows=0).columns
    separator = next((mark for mark in ";\t" if len(head) == 1 and mark in head[0]), ",")
    tables = [
        pd.read_csv(
            path,
            sep=separator,
            decimal=point,
            dtype={target: str},
            skipinitialspace=True,
            low_memory=False,
        )
        for point in ("." if separator == "," else ".,")
    ]
    if not isinstance(tables[0].index, pd.RangeIndex):
        raise pd.errors.ParserError("it has more fields in a line than columns")
    best = max(tables, key=lambda table: len(_numeric(table)))
    if best is not tables[0]:
        print("The comma is taken as the decimal point.")
    return best


def _numeric(table: DataFrame) -> list[str]:
    """The names of the columns of numbers."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return [
        name
        for name in table.columns
        if is_numeric_dtype(table[name]) and not is_bool_dtype(table[name])
    ]


def _text_beside_numbers(column: Series) -> str | None:
    """What keeps a column of categories, most of which are numbers, from being numeric."""
    import pandas as pd

    values = column.dropna()
    text = pd.to_numeric(values, errors="coerce").isna()
    return str(values[text].iloc[0]) if 0 < text.mean() < 0.5 else None


def _say_what_was_read(
    arguments: argparse.Namespace,
    X: DataFrame,
    y: Series,
    numeric: list[str],
    categorical: list[str],
) -> None:
    classes = ", ".join(f"{name} {count}" for name, count in y.value_counts().items())
    print(
        f"{arguments.table}: {len(X)} rows, {len(numeric)} numeric and {len(categorical)} "
        f"categorical columns; {arguments.target}: {classes}."
    )
    missing = int(X.isna().to_numpy().sum())
    if missing:
        print(
            f"Missing values: {missing}, filled by the median or the most frequent value of the "
            "column."
        )
    for name in categorical:
        text = _text_beside_numbers(X[name])
        if text is not None:
            print(
                f"Column {name!r} holds {text!r} beside numbers: it is taken as categories. Leave "
                "missing values empty to have it numeric."
            )
        if X[name].nunique() > _MOST_CATEGORIES:
            print(
                f"Column {name!r} has {X[name].nunique()} categories: all but the "
                f"{_MOST_CATEGORIES - 1} most frequent are taken together. --drop leaves it out."
            )
    print(
        f"The adversary moves numeric columns by at most eps standard deviations, q="
        f"{arguments.q:g}; categories stay. {_HELD_OUT:.0%} of the rows are held out.\n"
    )


def _columns(numeric: list[str], categorical: list[str]) -> ColumnTransformer:
    """Numeric columns filled and standardised, then a 0/1 column for each category."""
    filled = SimpleImputer(strategy="median", keep_empty_features=True)
    numbers = make_pipeline(filled, StandardScaler())
    categories = make_pipeline(
        SimpleImputer(strategy="most_frequent"),
        OneHotEncoder(
            max_categories=_MOST_CATEGORIES,
            handle_unknown="infrequent_if_exist",
            sparse_output=False,
            feature_name_combiner="{} = {}".format,  # no name of a column of numbers
        ),
    )
    return ColumnTransformer(
        [("numeric", numbers, numeric), ("categorical", categories, categorical)],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")


def _chosen(columns: ColumnTransformer, threat: LpBall, X: Any, y: Any) -> Pipeline:
    """The robust classifier whose geometry and training radius do best against the threat."""
    classifier = RobustLinearClassifierCV(
        threat_eps=threat.eps,
        q_pert=threat.q,
        scale=threat.scale,
        p_algo=2,
        loss="logistic",
        cv=min(_FOLDS, y.value_counts().min()),
    )
    return Pipeline([("columns", columns), ("classifier", classifier.fit(columns.transform(X), y))])
