"""The API reference has every public name, and public docstrings have the sections of numpydoc."""

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest
from numpydoc.validate import validate

import sklearn_robust

DOCS = Path(__file__).parent.parent / "docs"
BENCHMARKS = DOCS.parent / "benchmarks"
ROOMS = [
    "attacks",
    "certificates",
    "datasets",
    "distributed",
    "inspection",
    "linear_model",
    "metrics",
    "neural_network",
    "proofs",
    "reports",
    "rows",
    "separators",
    "solvers",
    "theory",
    "threats",
    "verification",
]
MODULES = [
    "attacks.linear",
    "balancing",
    "callbacks",
    "conformal",
    "joint",
    "joint_certificates",
    "losses",
    "neural_network.modules",
    "norms",
    "onnx",
    "problems",
    "regions",
    "scaled_norms",
    "splitting",
    "summed",
    "total_variation",
]
SCRIPTS = {"check"}  # runs alone: its docstring is its documentation
EVERYWHERE = {
    "GL03",  # no double blank lines
    "GL06",  # no unknown section
    "GL07",  # sections in the order of numpydoc
    "GL08",  # there is a docstring
    "SS03",  # the summary is a sentence
    "PR02",  # no parameter is documented that there is not
}
FOR_USERS = {
    "PR01",  # every parameter is documented
    "RT01",  # what is returned is documented
}
BRIEF = (  # where a line often says it all, or scikit-learn is the caller
    "PathRecorder.",
    "callbacks.",
    "certificates.",
    "distributed.DaskReduction.",
    "joint.",
    "joint_certificates.",
    "losses.",
    "norms.",
    "problems.",
    "proofs.",
    "regions.",
    "rows.",
    "scaled_norms.",
    "solvers.",
    "summed.",
    "threats.",
)
RESULTS = (  # made by the library: they have attributes, not parameters
    "Certificate",
    "ImplicitBiasReport",
    "NotSeparableError",
    "RobustLinearPath",
    "Separator",
    "distributed.SeparatorOnRows",
    "inspection.ConvergenceCurve",
    "inspection.MarginReport",
    "inspection.RobustAccuracyCurve",
)


def documented() -> list[str]:
    """The names in the two pages of the API, from the package on."""
    pages = [(DOCS / name).read_text() for name in ("api.rst", "api_low_level.rst")]
    lines = "".join(pages).splitlines()
    return [line.strip() for line in lines if re.fullmatch(r"   [A-Za-z_.]+", line)]


def public_names(module: str) -> list[str]:
    """`__all__`, or what a module without one defines."""
    found = importlib.import_module(f"sklearn_robust.{module}")
    if hasattr(found, "__all__"):  # which may pass on what others made
        return [
            name
            for name in found.__all__
            if getattr(found, name).__module__.startswith("sklearn_robust")
        ]
    return [
        name
        for name, value in vars(found).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == found.__name__
    ]


def resolve(path: str) -> object:
    """The object of a path such as attacks.linear.robust_margins."""
    *modules, name = path.split(".")
    return getattr(importlib.import_module(".".join(["sklearn_robust", *modules])), name)


REFERENCE = {path: resolve(path) for path in documented()}


# the reference has the callbacks of scikit-learn 1.9
with_callbacks = pytest.mark.skipif(
    importlib.util.find_spec("sklearn.callback") is None, reason="scikit-learn 1.8"
)


@with_callbacks
def test_every_public_name_is_in_the_reference():
    assert len(documented()) == len(REFERENCE)
    assert set(sklearn_robust.__all__) <= set(REFERENCE)
    for module in ROOMS + MODULES:
        for name in public_names(module):
            value = resolve(f"{module}.{name}")
            assert any(value is other for other in REFERENCE.values()), (
                f"{module}.{name} is not in docs/api.rst or docs/api_low_level.rst"
            )


def links_of_messages() -> set[tuple[str, str]]:
    """Page and heading of every link that a message ends with."""
    calls = re.compile(r"\bsee\('([a-z_/]+)'(?:, '([a-z_-]+)')?\)")
    package = Path(sklearn_robust.__file__).parent
    return {link for path in package.rglob("*.py") for link in calls.findall(path.read_text())}


def anchors(page: str) -> set[str]:
    """The anchors that the headings of a page have."""
    headings = re.findall("^#+ (.*)$", (DOCS / f"{page}.md").read_text().lower(), re.MULTILINE)
    return {re.sub("[^a-z0-9_ -]", "", heading).replace(" ", "-") for heading in headings}


def test_messages_link_to_pages_and_headings():
    links = links_of_messages()
    assert ("questions", "separable_-is-none") in links
    for page, heading in links:
        assert not heading or heading in anchors(page), (page, heading)
        assert anchors(page), page


def test_every_public_room_is_looked_at():
    package = Path(sklearn_robust.__file__).parent
    rooms = {path.parent.name for path in package.glob("[!_]*/__init__.py")}
    modules = {path.stem for path in package.glob("[!_]*.py")}
    assert rooms == set(ROOMS)
    assert modules <= set(MODULES) | SCRIPTS


def described() -> list[str]:
    """Every name of the reference, and every public method that our classes define."""
    paths = []
    for path, value in REFERENCE.items():
        paths.append(f"sklearn_robust.{path}")
        if inspect.isclass(value):
            ours = {
                name: m
                for c in value.__mro__
                if c.__module__.startswith("sklearn_robust")
                for name, m in vars(c).items()
            }
            methods = (
                name
                for name, m in ours.items()
                if inspect.isfunction(m) and not name.startswith("_")
            )
            paths += [f"sklearn_robust.{path}.{name}" for name in methods]
    return paths


@with_callbacks
def test_docstrings_have_the_sections_of_numpydoc():
    found = {}
    for path in described():
        name = path.removeprefix("sklearn_robust.")
        brief = name.startswith(BRIEF) or name in RESULTS
        checks = EVERYWHERE if brief else EVERYWHERE | FOR_USERS
        found[name] = [text for code, text in validate(path)["errors"] if code in checks]
    assert not {name: errors for name, errors in found.items() if errors}


IN_A_BROWSER = {"numpy", "pandas", "sklearn", "sklearn_robust"}


def absent_in_a_browser() -> str:
    """The words of a page without buttons, as a regular expression."""
    return re.search(r"NOT_THERE =\s+/(.*)/;", (DOCS / "_static" / "run.js").read_text())[1]


def test_pages_with_buttons_import_what_a_browser_has():
    absent = absent_in_a_browser()
    pages = {}
    for path in [*DOCS.glob("*.md"), *DOCS.glob("guide/*.md")]:
        code = re.findall(r"^(?:>>>|\.\.\.) ?(.*)$", path.read_text(), re.MULTILINE)
        if code and not re.search(absent, "\n".join(code)):
            names = (re.match(r"(?:from|import) (\w+)", line) for line in code)
            pages[path.stem] = {name[1] for name in names if name} - sys.stdlib_module_names
    assert {"getting_started", "linear_models", "separators"} <= set(pages)
    assert not {page: names - IN_A_BROWSER for page, names in pages.items() if names - IN_A_BROWSER}


def test_what_needs_torch_has_no_buttons():
    absent, seen = absent_in_a_browser(), []
    for name, value in REFERENCE.items():
        code = re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", inspect.getdoc(value) or "", re.MULTILINE)
        home = inspect.getsource(sys.modules[value.__module__])
        if code and re.search("^(import|from) torch", home, re.MULTILINE):
            seen.append(name)
            assert re.search(absent, "\n".join(code)), name
    assert {"RobustMLPClassifier", "attacks.square", "verification.certified_margins"} <= set(seen)


def test_the_summary_of_the_races_is_that_of_the_tables(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    text = importlib.import_module("summary").text()
    assert (BENCHMARKS / "results" / "summary.md").read_text() == text
    for name in ("summary", "_harness"):
        del sys.modules[name]
