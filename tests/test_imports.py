"""The import order of the rooms, and what importing the package costs."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sklearn_robust

PACKAGE = Path(sklearn_robust.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ORDER = [
    "check",
    "_array_api",
    "_documentation",
    "_extras",
    "norms",
    "scaled_norms",
    "splitting",
    "_rays",
    "_interrupts",
    "_clarabel",
    "_highs",
    "threats",
    "_parameters",
    "losses",
    "rows",
    "_own_sets",
    "_adversaries",
    "_joint_sets",
    "problems",
    "_sign_split",
    "balancing",
    "total_variation",
    "_joint_rows",
    "_joint_intercepts",
    "joint",
    "summed",
    "_joint_saddle",
    "certificates",
    "_joint_flows",
    "joint_certificates",
    "_glance",
    "_fits",
    "_conic_programs",
    "_conic_sets",
    "_pair_groups",
    "_pair_programs",
    "_pair_proofs",
    "proofs",
    "solvers",
    "separators",
    "regions",
    "attacks",
    "verification",
    "metrics",
    "_no_callbacks",
    "callbacks",
    "linear_model",
    "neural_network",
    "onnx",
    "conformal",
    "inspection",
    "reports",
    "datasets",
    "theory",
    "distributed",
    "__init__",
    "_command_line",
    "__main__",
]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(tree_of(path)):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "sklearn_robust"
        ):
            parts = node.module.split(".")
            names = parts[1:2] or [alias.name for alias in node.names]
            rooms |= {name if name in ORDER else "__init__" for name in names}
        elif isinstance(node, ast.Import):
            rooms |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("sklearn_robust.")
            }
    return rooms


def test_every_room_has_its_place():
    assert {room(path) for path in FILES} == set(ORDER)


def test_imports_point_down():
    wrong = [
        f"{path.relative_to(PACKAGE)} must not import {other}"
        for path in FILES
        for other in imported_rooms(path)
        if ORDER.index(other) > ORDER.index(room(path))
    ]
    assert not wrong


STATEMENTS = {  # run one after the other in one process
    "package": "import sklearn_robust",
    "worker": "import sklearn_robust.distributed.reduction, sklearn_robust.solvers",
    "scikit-learn": "import sklearn.linear_model, sklearn.pipeline, sklearn.preprocessing, "
    "sklearn.feature_selection, scipy.optimize",
    "estimator": "from sklearn_robust import RobustLinearClassifier",
    "displays": "from sklearn_robust import RobustAccuracyDisplay, PathRecorder",
    "separators": "import sklearn_robust.separators",
    "closed form of the attack": "import sklearn_robust.attacks.linear",
    "report": "from sklearn_robust import implicit_bias_report",
}


def public_rooms() -> list[str]:
    return sorted({room(path) for path in FILES if room(path)[0] != "_"})


@pytest.fixture(scope="module")
def fresh_process() -> list[str]:
    """The names of the modules that are loaded after each of STATEMENTS, a line each; then the name
    of each public module of the package, got as its attribute."""
    code = [f"{statement}; print(*sys.modules)" for statement in STATEMENTS.values()]
    code += [f"print(sklearn_robust.{name}.__name__)" for name in public_rooms()]
    run = [sys.executable, "-c", "\n".join(["import sys", *code])]
    return subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="module")
def loaded(fresh_process) -> dict[str, set[str]]:
    """By name of a statement: the top-level modules loaded after it."""
    lines = fresh_process[: len(STATEMENTS)]
    return {
        name: {module.split(".")[0] for module in line.split()}
        for name, line in zip(STATEMENTS, lines, strict=True)
    }


@pytest.mark.slow
def test_the_package_imports_nothing_until_a_name_is_used(loaded):
    heavy = {"torch", "clarabel", "matplotlib", "cvxpy", "sklearn", "scipy", "numpy"}
    assert not loaded["package"] & heavy


@pytest.mark.slow
def test_a_worker_of_a_cluster_imports_no_scikit_learn(loaded):
    """It imports pandas where that is installed, and takes twice the memory."""
    heavy = {"torch", "clarabel", "matplotlib", "cvxpy", "sklearn", "pandas", "pyarrow"}
    assert not loaded["worker"] & heavy


@pytest.mark.slow
def test_the_estimators_import_no_more_than_scikit_learn_does(loaded):
    more = loaded["estimator"] - loaded["scikit-learn"]
    assert more <= {"sklearn_robust", "array_api_compat"}


@pytest.mark.slow
def test_displays_import_matplotlib_only_to_draw(loaded):
    assert not loaded["displays"] & {"matplotlib", "torch"}


@pytest.mark.slow
def test_separators_import_clarabel_only_to_solve(loaded):
    assert "clarabel" not in loaded["separators"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["closed form of the attack", "report"])
def test_what_needs_no_torch_imports_none(loaded, name):
    assert "torch" not in loaded[name]


@pytest.mark.slow
def test_public_modules_are_imported_when_they_are_used(fresh_process):
    assert set(public_rooms()) <= set(dir(sklearn_robust))
    found = fresh_process[len(STATEMENTS) :]
    assert found == [f"sklearn_robust.{name}" for name in public_rooms()]


def test_public_names_resolve_and_unknown_ones_do_not():
    for name in sklearn_robust.__all__:
        assert getattr(sklearn_robust, name).__name__ == name
    assert set(sklearn_robust.__all__) <= set(dir(sklearn_robust))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = sklearn_robust.no_such_name


def package_of(module: str) -> str:
    """The package of a module below sklearn_robust, by its dotted name; "" for top-level ones."""
    parts = module.split(".")[1:]
    return parts[0] if parts and (PACKAGE / parts[0]).is_dir() else ""


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sklearn_robust"):
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {a.name for a in node.names if a.name.startswith("sklearn_robust.")}
    return modules


def test_private_names_stay_in_their_package():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}, private to {package_of(module)}"
        for path in FILES
        for module in imported_modules(path)
        if package_of(module) not in ("", path.relative_to(PACKAGE).parts[0])
        and any(name.startswith("_") for name in module.split(".")[2:])
    ]
    assert not wrong


@pytest.mark.parametrize("package", sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py")))
def test_no_name_of_a_package_hides_one_of_its_modules(package):
    modules = {path.stem for path in (PACKAGE / package).glob("*.py")}
    names = set()
    for node in ast.walk(tree_of(PACKAGE / package / "__init__.py")):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
    assert not modules & names


def test_no_name_of_the_library_hides_one_of_its_modules():
    modules = {room(path) for path in FILES}
    assert not modules & set(sklearn_robust.__all__)


def test_exponent_and_scale_of_a_threat_are_read_where_a_module_says_that_it_serves_balls():
    """A threat of one's own has neither."""
    silent = []
    for path in FILES:
        inside = path.relative_to(PACKAGE).as_posix()
        if inside.startswith(("threats/", "norms", "scaled_norms")):
            continue
        source = path.read_text()
        documentation = ast.get_docstring(tree_of(path)) or ""
        if re.search(r"threat_?\.(q|scale)\b", source) and "l_q ball" not in documentation:
            silent.append(inside)
    assert not silent
