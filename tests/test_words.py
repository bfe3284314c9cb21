"""The vocabulary of code, documentation, examples and benchmarks, and the form of the code."""

import ast
import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("sklearn_robust", "docs", "examples", "benchmarks", "tests")
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
    "in_geometry": "a verb that says what is computed",
    "at_loss": "a verb that says what is computed",
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
# Where an old word is plain English or the field's: a file, and the text around the word.
ALLOWED = {
    ("docs/install.md", "on one screen"),
    ("sklearn_robust/__main__.py", "on one screen"),
    ("sklearn_robust/_fits.py", "none of the last fit's in place"),
}
# `PathRecorder` is a public name, and `from_recorders` a public method that takes several of them.
PUBLIC = re.compile(r"PathRecorders?|recorders?(?![A-Za-z])")


def files(suffixes: set[str]) -> list[Path]:
    """The project's files with these suffixes, without those that the documentation builds."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for folder in FOLDERS:
        found += (ROOT / folder).rglob("*")
    return sorted(
        path
        for path in found
        if path.suffix in suffixes
        and path != Path(__file__)
        and not str(path.relative_to(ROOT)).startswith(BUILT)
    )


def pattern(word: str) -> re.Pattern[str]:
    """The word as a whole, alone or as a part of a name in snake case or camel case."""
    body = word.replace(" ", r"(?:[\s#_]+|(?-i:(?=[A-Z])))")
    return re.compile(rf"(?<![A-Za-z])(?:{body})(?![a-z])", re.IGNORECASE)


PATTERNS = {pattern(word): new for word, new in OLD_WORDS.items()}
ANY = pattern("|".join(OLD_WORDS))  # one search for most files


def old_words(text: str, name: str = "") -> list[str]:
    """Where a text uses an old word: line, word, and the word to use."""
    text = PUBLIC.sub(lambda match: "." * len(match[0]), text)
    for path, around in ALLOWED:
        if path == name:
            text = text.replace(around, "." * len(around))
    if not ANY.search(text):
        return []
    return [
        f"{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}, now: {new}"
        for expression, new in PATTERNS.items()
        for match in expression.finditer(text)
    ]


def test_no_old_word():
    found = {}
    for path in files({".py", ".md", ".rst"}):
        name = str(path.relative_to(ROOT))
        found[name] = old_words(path.read_text(), name)
    assert not {name: words for name, words in found.items() if words}


def test_no_old_word_in_the_texts_of_figures():
    for path in files({".svg"}):
        words = " ".join(re.findall(r"<!-- (.*?) -->", path.read_text()))
        assert not old_words(words), path.name


def test_old_words_are_found_alone_and_in_names():
    for text in ("The pull", "pulled_rows", "_at_loss", "a short\n# cut", "SplitProgram", "_Watch"):
        assert old_words(text), text
    for text in ("clean", "Massart", "footnote", "in place of it", "PathRecorder()"):
        assert not old_words(text), text


def test_every_exception_is_in_use():
    for name, around in ALLOWED:
        assert around in (ROOT / name).read_text(), (name, around)


CODE = files({".py"})
LIBRARY = [path for path in CODE if path.is_relative_to(ROOT / "sklearn_robust")]


def test_lines_have_at_most_a_hundred_characters():
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in CODE
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 100
    ]
    assert not long


def long_assignments(source: str) -> list[int]:
    """Lines that assign three or more values at once, as in a, b, c = 1, 2, 3."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Tuple)
        and len(node.value.elts) > 2
        and any(isinstance(target, ast.Tuple) for target in node.targets)
    ]


def test_one_assignment_a_line_beyond_pairs():
    assert long_assignments("a, b, c = 1, 2, 3") == [1]
    assert not long_assignments("a, b = 1, 2\na, b, c = f()\na = 1, 2, 3")
    found = {str(path.relative_to(ROOT)): long_assignments(path.read_text()) for path in LIBRARY}
    assert not {name: lines for name, lines in found.items() if lines}


def dangling(source: str) -> list[int]:
    """Lines of comments, and of docstrings' paragraphs, that begin with "of" and so lack a noun."""
    comments = []
    if re.search(r"#\s*of\b", source, re.IGNORECASE):  # most files have no such comment
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = [token for token in tokens if token.type == tokenize.COMMENT]
    wrapped = {token.start[0] + 1 for token in comments if token.line.lstrip().startswith("#")}
    found = [
        token.start[0]
        for token in comments
        if re.match(r"#+\s*of\b", token.string, re.IGNORECASE) and token.start[0] not in wrapped
    ]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and (text := ast.get_docstring(node, clean=False)):
            first = node.body[0].lineno
            lines = enumerate(text.splitlines(), first)
            found += [line for line, words in lines if words.lstrip().startswith("Of ")]
            if text.startswith("of "):
                found.append(first)
    return found


def test_comments_and_docstrings_begin_with_their_noun():
    assert dangling("x = 1  # of the rows") == [1]
    assert dangling('def f():\n    """Of rows."""') == [2]
    assert not dangling("# the sum\n# of the rows")
    found = {str(path.relative_to(ROOT)): dangling(path.read_text()) for path in LIBRARY}
    assert not {name: lines for name, lines in found.items() if lines}
