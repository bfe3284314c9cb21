"""The vocabulary of code, documentation, examples and benchmarks, and the form of the code."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("sklearn_robust", "docs", "examples", "benchmarks", "tests")
SUFFIXES = {".py", ".md", ".rst", ".svg"}
BUILT = ("docs/_build", "docs/generated", "docs/auto_examples")

# A word that this project no longer uses, as a regular expression without its ends, and the word
# that the project uses. A space in the expression stands for any white space and for an underscore.
OLD_WORDS = {
    "pull(s|ed|ing)?": "weighted sum, `weighted_sum`",
    "velocit(y|ies)": "subgradient",
    "speeds?": "dual norm of the subgradient",
    "tolls?": "penalty weight",
    "mass(es)?": "total weight",
    "lean(s|ed|ing)?": "label-weighted sum, or the symbol of docs/maths.md",
    "tilt(s|ed|ing)?": "label-weighted sum, or the symbol of docs/maths.md",
    "lift(s|ed|ing)?": "the symbol of docs/maths.md",
    "ben(t|d|ds|ding)": "curvature, or the symbol of docs/maths.md",
    "demand(s|ed|ing)?": "sufficient-decrease fraction",
    "promis(e|es|ed|ing)": "predicted decrease",
    "foot": "unpenalised minimiser",
    "polish(es|ed|ing)?": "active-set refinement",
    "screen(s|ed|ing|ings)?": "`decide_separability`",
    "unsolved": "open problems",
    "in geometry": "a verb that says what is computed",
    "at loss": "a verb that says what is computed",
    "fit watch(es)?": "monitor, callback",
    "watch(es|ed|ing)?": "monitor, callback",
    "told": "monitor, callback",
    "recorders?": "monitor, callback",
    "short ?-?cuts?": "closed-form step",
    "in place(?! of)": "fast path",
    "split programs?": "standard form",
    "margin programs?": "max-margin form",
    "primal dual(?! interior)": "Point, Certified",
}
# Where an old word is the word of the field or plain English: the beginning of a path, and text
# around the word. Each entry must still be in use.
ALLOWED = {
    ("docs/install.md", "on one screen"),
    ("sklearn_robust/__main__.py", "on one screen"),
    ("sklearn_robust/_fits.py", "none of the last fit's in place"),
    ("sklearn_robust/neural_network/_base.py", "all that training changes in place"),
    ("sklearn_robust/neural_network/_training.py", "are changed in place"),
}
# Names that contain an old word: what they hide is not looked at. `PathRecorder` is a public name.
NAMES = re.compile(r"PathRecorders?|path_recorders?|(from_)?recorders?(?=[\w\[(.]*)", re.IGNORECASE)


def texts() -> list[Path]:
    """The files of the project that hold text, without what the documentation's build makes."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    return sorted(
        path
        for path in found
        if path != Path(__file__) and not str(path.relative_to(ROOT)).startswith(BUILT)
    )
