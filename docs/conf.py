"""Sphinx configuration. Build: python -m sphinx -W --keep-going -b html docs docs/_build/html."""

import importlib
import inspect
import os
import re
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the examples are small: more threads only cost time

import array_api_compat
import numpy as np
from PIL import Image

import sklearn_robust

HERE = Path(__file__).parent


def guide_pages(name: str) -> list[str]:
    """The three pages of the user guide that say most of a public name."""
    short = re.compile(rf"(?<![\w.]){re.escape(name.removeprefix('sklearn_robust.'))}\b")
    pages = {
        path.stem: len(
            short.findall(path.read_text(encoding="utf-8").replace("sklearn_robust.", ""))
        )
        for path in sorted((HERE / "guide").glob("*.md"))
    }
    named = [page for page, count in pages.items() if count]
    return sorted(named, key=pages.__getitem__, reverse=True)[:3]


def foreign_methods(module: str, name: str) -> list[str]:
    """The public methods of a class that scikit-learn, torch or Python document."""
    cls = getattr(importlib.import_module(module), name)
    methods = {m: getattr(cls, m) for m in dir(cls) if not m.startswith("_")}
    return [
        name
        for name, method in methods.items()
        if callable(method)
        and not str(getattr(method, "__module__", "")).startswith("sklearn_robust")
        and not re.fullmatch("set_.*_request", name)
    ]


project = "sklearn-robust"
copyright = "The sklearn-robust developers"
release = version = sklearn_robust.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # ships MathJax with the pages: formulas need no network
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
default_role = "py:obj"

html_theme = "furo"
html_title = f"sklearn-robust {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_js_files = [("run.js", {"type": "module"})]
html_show_sourcelink = False

# the names of other libraries to link to are in lists of our own: a build needs no network
_ELSEWHERE = {
    "numpy": "https://numpy.org/doc/stable",
    "scipy": "https://docs.scipy.org/doc/scipy",
    "sklearn": "https://scikit-learn.org/stable",
    "torch": "https://docs.pytorch.org/docs/stable",
}
intersphinx_mapping = {name: (url, f"_inventories/{name}.inv") for name, url in _ELSEWHERE.items()}

autosummary_generate = True
autosummary_context = {"guide_pages": guide_pages, "foreign_methods": foreign_methods}
autodoc_typehints = "none"  # the numpydoc sections say it better
numpydoc_show_class_members = False  # the template of a class does

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # the gallery's order is a class

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "doc_module": ("sklearn_robust",),
    "reference_url": {"sklearn_robust": None},
    "abort_on_example_error": True,
    "capture_repr": (),
    "backreferences_dir": "generated/backreferences",
    "download_all_examples": False,
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "thumbnail_size": (400, 280),
}


def _skip_foreign(
    app: Any, what: str, name: str, member: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what our classes inherit from scikit-learn, torch and Python: documented there.

    The values True and False, and the fields of a named tuple, have docstrings of Python's.
    """
    if isinstance(member, property) and not member.fget.__doc__:
        return True
    if type(member).__name__ == "_tuplegetter":
        return True
    function = member.fget if isinstance(member, property) else getattr(member, "func", member)
    home = getattr(function, "__module__", None)
    return True if home is not None and not home.startswith("sklearn_robust") else None


def _source(app: Any, module: str, name: str) -> str | None:
    """The module that a class is written in where it gives another, that of its methods."""
    value = getattr(importlib.import_module(module), name.split(".")[0], None)
    if not inspect.isclass(value) or value.__module__ != module:
        return None
    methods = (member for member in vars(value).values() if inspect.isfunction(member))
    return next((method.__module__ for method in methods), None)


def _close_up(app: Any, name: str, source: list[str]) -> None:
    """Drop the empty line that a doctest needs at the end of its block."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")


def _show_first_panels(app: Any) -> None:
    """Of a picture of panels side by side, the thumbnail shows those that can be read."""
    for example in sorted((HERE.parent / "examples").glob("plot_*.py")):
        chosen = re.search(r"thumbnail_number = (\d+)", example.read_text(encoding="utf-8"))
        images = HERE / "auto_examples" / "images"
        picture = images / f"sphx_glr_{example.stem}_{int(chosen[1]) if chosen else 1:03}.png"
        if not picture.exists():
            continue
        with Image.open(picture) as opened:
            image = opened.convert("RGB")
        width, height = (int(side) for side in sphinx_gallery_conf["thumbnail_size"])
        widest = image.height * width // height
        if image.width > 1.2 * widest:
            blank = (np.asarray(image) > 250).all(axis=(0, 2))
            places = np.flatnonzero(blank[:widest] & (np.arange(widest) > image.height / 2))
            gaps = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
            panel = max(gaps, key=len)  # ends before the widest gap
            image = image.crop((0, 0, panel[0] if len(panel) else widest, image.height))
            image.thumbnail((width, height))
            page = Image.new("RGB", (width, height), "white")
            page.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
            page.save(images / "thumb" / f"sphx_glr_{example.stem}_thumb.png")


def _pack(app: Any, failure: Exception | None) -> None:
    """Put the library, and the dependency that Pyodide lacks, into an archive for browsers."""
    if failure or app.builder.format != "html":
        return
    with ZipFile(Path(app.outdir, "_static", "sklearn_robust.zip"), "w", ZIP_DEFLATED) as archive:
        for package in (sklearn_robust, array_api_compat):
            folder = Path(package.__file__).parent
            for path in sorted(folder.rglob("*.py")):
                archive.write(path, path.relative_to(folder.parent))


def setup(app: Any) -> None:
    """Register what is above."""
    app.connect("builder-inited", _show_first_panels, priority=900)  # after the gallery
    app.connect("build-finished", _pack)
    app.connect("autodoc-skip-member", _skip_foreign)
    app.connect("viewcode-follow-imported", _source)
    app.connect("source-read", _close_up)
