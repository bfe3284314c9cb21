"""Certificates pass two checkers, and changed ones only where they remain true."""

import copy
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sklearn_robust import check, joint_certificates
from sklearn_robust.certificates import log_risk_bound, margin_bound
from sklearn_robust.joint import JointProblem
from sklearn_robust.losses import LOSSES
from sklearn_robust.norms import LpNorm
from sklearn_robust.proofs import LabelledData
from sklearn_robust.threats import LpBall

MUTANTS = 1000
EVERY = 8  # of the mutants the second checker sees each EVERY-th


def test_certificates_pass_both_checkers(certificates, second_checker):
    for X, y, certificate in certificates:
        assert certificate.check(X, y).startswith("VALID")
    for n in (0, len(certificates) // 2):
        part = certificates[n : n + len(certificates) // 2]
        X, y, _ = part[0]
        assert set(second_checker(X, y, [c.content for *_, c in part])) == {"VALID"}


# --- mutants


def exponent(name):
    return np.inf if name == "inf" else float(name)


def figures(content, X, y):
    """The figures of a certificate in floating point, by this library and not by the checker."""
    data = LabelledData.of(X, y)
    threat = content["threat"]
    scale = np.array([float.fromhex(s) for s in threat["scale"]])
    ball = LpBall(exponent(threat["q"]), float.fromhex(threat["eps"]), scale)
    size = np.array([float.fromhex(s) for s in content["sample_weight"]])
    data = LabelledData(data.X, data.y, data.classes, size)
    problem = data.problem(ball, content["claim"]["fit_intercept"])
    used = size > 0
    joint = isinstance(problem, JointProblem)
    coef = np.array([[float.fromhex(x) for x in w] for w in content["predictor"]["coef"]])
    b = np.array([float.fromhex(x) for x in content["predictor"]["intercept"]])
    margins = problem.robust_margins(coef, b) if joint else problem.margins(coef, b)[0]
    if content["claim"]["kind"] == "accuracy":
        return (size[used] @ (margins > 0) / size.sum(),) * 2
    weights = np.zeros((len(data.classes), len(y)))
    for i, k, text in content["dual"]["weights"]:
        weights[k, i] = int(text, 16) / 2 ** content["dual"]["shift"]
    weights = weights[:, used] / weights.sum()
    weights = weights if joint else weights.sum(axis=0)[None]
    module = joint_certificates if joint else None
    if content["claim"]["kind"] == "margin":
        norm = LpNorm(exponent(content["claim"]["p"]))
        bound = module.margin_bound if joint else margin_bound
        worst = module.pair_perturbations(problem, coef) if joint else None
        given = (weights, worst) if joint else (weights,)
        return margins.min() / norm.value(coef.ravel()), float(np.max(bound(problem, norm, *given)))
    loss = LOSSES[content["claim"]["loss"]]
    if joint:
        risk = problem.evaluate(loss, coef, b).log_risk
        return joint_certificates.log_risk_bound(problem, loss, weights, search=True), risk
    risk = loss.log_risk_and_weights(margins, problem.log_weight[0])[0]
    return float(log_risk_bound(problem, loss, weights)[0]), float(risk)


def mutate(text, rng):
    """A hexadecimal text with one digit changed, or its exponent."""
    places = [
        at for at, x in enumerate(text) if x in "0123456789abcdef" and text[at : at + 2] != "0x"
    ]
    at = rng.choice(places)
    digits = "0123456789" if "p" in text and at > text.index("p") else "0123456789abcdef"
    if "p" in text and at < text.index("."):
        digits = "01"
    return text[:at] + rng.choice([x for x in digits if x != text[at]]) + text[at + 1 :]


def mutant(content, rng):
    """A copy of a certificate with one of its numbers changed, and the name of that number."""
    content = copy.deepcopy(content)
    claim, threat, dual = content["claim"], content["threat"], content["dual"]
    names = ["lower", "upper", "eps", "coef", "sample_weight", "scale", "classes", "q"]
    if dual is not None:
        names += ["weight", "weight", "left out", "perturbation"]
    name = rng.choice(names)
    if name in claim:
        claim[name] = mutate(claim[name], rng)
    elif name == "eps":
        threat["eps"] = mutate(threat["eps"], rng)
    elif name == "q":
        threat["q"] = rng.choice([q for q in check.DUAL if q != threat["q"]])
    elif name == "coef":
        row = rng.choice(content["predictor"]["coef"])
        at = rng.randrange(len(row))
        row[at] = mutate(row[at], rng)
    elif name == "classes":
        content["classes"].reverse()
    elif name in ("sample_weight", "scale"):
        values = content.get(name, threat.get(name))
        at = rng.randrange(len(values))
        values[at] = mutate(values[at], rng)
    elif name == "weight":
        entry = rng.choice(dual["weights"])
        entry[2] = mutate(entry[2], rng)
    elif name == "left out":
        dual["weights"].pop(rng.randrange(len(dual["weights"])))
    else:
        row = rng.choice(dual["perturbations"])
        at = rng.randrange(len(row))
        row[at] = mutate(row[at], rng)
    return name, content


def test_changed_certificates_are_rejected_unless_they_are_true(certificates, second_checker):
    rng = random.Random(0)
    of_data, accepted = {}, {}
    for turn in range(MUTANTS):
        X, y, certificate = certificates[turn % len(certificates)]
        name, content = mutant(certificate.content, rng)
        data = LabelledData.of(X, y)
        valid, line = check.Proof().check(content, data.rows, data.labels)
        if turn % EVERY == 0:
            of_data.setdefault(id(X), (X, y, []))[2].append((content, valid, line))
        if not valid:
            continue
        accepted[name] = accepted.get(name, 0) + 1
        lower, upper = figures(content, X, y)
        claim = content["claim"]
        slack = 1e-6 if claim["kind"] == "margin" and len(data.classes) > 2 else 1e-9
        assert float.fromhex(claim["lower"]) <= lower + 1e-9 + slack * abs(lower), (name, claim)
        if claim["kind"] == "margin":  # the bound of the perturbations that the library finds
            assert float.fromhex(claim["upper"]) >= (1 - slack) * upper - 1e-9, (name, claim)
        else:
            assert float.fromhex(claim["upper"]) >= upper - 1e-9, (name, claim)
    # what is accepted is less than claimed before, or changes next to nothing
    assert sum(accepted.values()) < MUTANTS / 2
    assert accepted.get("left out", 0) == accepted.get("classes", 0) == 0
    for X, y, mutants in of_data.values():
        verdicts = second_checker(X, y, [content for content, _, _ in mutants])
        for (_, valid, line), verdict in zip(mutants, verdicts, strict=True):
            assert verdict.startswith("VALID") == valid, (line, verdict)


def test_another_row_or_label_is_rejected(certificates):
    X, y, certificate = certificates[0]
    data = LabelledData.of(X, y)
    for i, row in enumerate(data.rows):
        for j in range(len(row)):
            rows = copy.deepcopy(data.rows)
            rows[i][j] = np.nextafter(rows[i][j], 9)
            valid, line = check.Proof().check(certificate.content, rows, data.labels)
            assert not valid
            assert "sha256" in line
    assert not check.Proof().check(certificate.content, data.rows, data.labels[::-1])[0]
    assert not check.Proof().check(certificate.content, data.rows[::-1], data.labels[::-1])[0]


# --- the file alone


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A function that runs a copy of the checker, without the package."""
    folder = tmp_path_factory.mktemp("alone")
    script = shutil.copy(check.__file__, folder / "check.py")

    def run(*arguments):
        command = [sys.executable, "-I", str(script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        return done.returncode, done.stdout.splitlines()[0]

    return folder, run


def test_the_file_alone_reads_csv_and_npy(certificates, alone):
    folder, run = alone
    X, y, certificate = certificates[1]
    certificate.save(folder / "c.json")
    assert type(certificate).load(folder / "c.json") == certificate
    table = np.column_stack([X, y])
    np.savetxt(folder / "d.csv", table, delimiter=",", header="a,b,c,d,label", comments="")
    np.save(folder / "d.npy", table)
    np.save(folder / "f.npy", np.asfortranarray(table))
    for name in ("d.csv", "d.npy", "f.npy"):
        status, line = run("c.json", name)
        assert status == 0, line
        assert line == certificate.check(X, y)


def test_the_file_alone_says_which_line_fails(certificates, alone):
    folder, run = alone
    X, y, certificate = certificates[1]
    np.save(folder / "d.npy", np.column_stack([X, y]))
    changed = copy.deepcopy(certificate.content)
    changed["claim"]["lower"] = "0x1.0p+9"
    (folder / "c.json").write_text(json.dumps(changed))
    status, line = run("c.json", "d.npy")
    assert (status, line[:20]) == (1, "INVALID claim: lower")
    (folder / "c.json").write_text("{")
    for name in ("c.json", "none.json"):
        status, line = run(name, "d.npy")
        assert status == 1
        assert line.startswith("INVALID file")


def test_the_checker_is_one_page():
    source = Path(check.__file__).read_text()
    assert len(source.splitlines()) <= 200
    modules = {
        line.split()[1] for line in source.splitlines() if line.startswith(("import", "from"))
    }
    assert modules <= sys.stdlib_module_names


# --- the numbers of the checker


def test_bounds_hold_and_are_narrow():
    import mpmath

    for x in (check.Fraction(1, 3), check.Fraction(-7, 2), check.Fraction(10**9, 7)):
        with mpmath.workdps(60):
            exact = mpmath.exp(mpmath.mpf(x.numerator) / x.denominator) if x < 100 else None
            if exact is not None:
                low, high = (check.bound("exp", x, side) for side in (check.DOWN, check.UP))
                assert mpmath.mpf(low.numerator) / low.denominator < exact
                assert mpmath.mpf(high.numerator) / high.denominator > exact
                assert (high - low) / high < check.Fraction(1, 10**45)
            if x > 0:
                low, high = (check.bound("ln", x, side) for side in (check.DOWN, check.UP))
                exact = mpmath.log(mpmath.mpf(x.numerator) / x.denominator)
                assert mpmath.mpf(low.numerator) / low.denominator < exact
                assert mpmath.mpf(high.numerator) / high.denominator > exact
    for values in ([3, 4], [1, 1], [0, 0], [10**40, 1]):
        low, high = check.norm(values, "2")
        square = sum(x * x for x in values)
        assert low**2 <= square <= high**2
        assert high - low <= check.Fraction(1, 2**check.BITS)
    assert check.norm([3, -4], "2") == [5, 5]


@pytest.mark.parametrize(
    ("text", "name"),
    [("1", "1"), ("1.0", "1"), ("1e0", "1"), (" a b ", "a b"), ("0.5", "0.5"), ("True", "True")],
)
def test_labels_as_text(text, name):
    assert check.label(text) == name
