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
from sklearn_robust.norms import LpNorm
from sklearn_robust.proofs import LabelledData
from sklearn_robust.threats import FeatureBudget, LpBall, residual

MUTANTS = 400


def test_certificates_pass_both_checkers(certificates, second_checker):
    for X, y, certificate in certificates:
        assert certificate.check(X, y).startswith("VALID")
    cases = [(X, y, certificate.content) for X, y, certificate in certificates]
    assert set(second_checker(cases)) == {"VALID"}


# --- mutants


def exponent(name):
    return np.inf if name == "inf" else float(name)


def numbers(texts):
    return np.array([float.fromhex(x) for x in texts])


class InFloats:
    """A certificate in floating point, by this library and NumPy and not by the checker."""

    def __init__(self, content, X, y):
        self.content, self.q = content, content["threat"]["q"]
        self.y = np.array([content["classes"].index(x) for x in LabelledData.of(X, y).labels])
        self.X, self.K, self.size = X, len(content["classes"]), numbers(content["weight"])
        sides = [numbers(side) for side in content["threat"]["sides"]]
        factor = numbers(content["threat"]["eps"])[self.y] * numbers(content["radius"])
        self.ends = factor[:, None] * sides[0], factor[:, None] * sides[1]
        if len(sides) > 2:
            room = sides[2] - X, X - sides[3]
            self.ends = [np.minimum(*of) for of in zip(self.ends, room, strict=True)]

    def losses(self, i, V):
        """What the set of a sample takes in directions (m, d)."""
        moved = np.where(V > 0, V * self.ends[0][i], -V * self.ends[1][i])
        if self.q == "2":
            return np.linalg.norm(moved, axis=1)
        k = {"1": 1, "inf": V.shape[1]}.get(self.q, self.q)
        return np.sort(moved, axis=1)[:, ::-1][:, :k].sum(axis=1)

    def leads(self):
        """Leads and losses of each sample of positive weight over each rival."""
        W = np.array([numbers(w) for w in self.content["predictor"]["coef"]])
        f = self.X @ W.T + numbers(self.content["predictor"]["intercept"])
        found = {}
        for i in np.flatnonzero(self.size):
            j, others = self.y[i], np.arange(self.K) != self.y[i]
            found[i] = f[i, j] - f[i, others], self.losses(i, W[others] - W[j])
        return W, found

    def weights(self):
        """Weights (n, K), of sum 1."""
        found = np.zeros((len(self.X), self.K))
        for i, k, text in self.content["dual"]["weights"]:
            found[i, k] = int(text, 16) / 2 ** self.content["places"]
        return found

    def bound(self, norm, W):
        """The bound on the margin that the weights prove by the best perturbations; None for
        several classes whose samples do not share one ball.
        """
        a = self.weights() / self.weights().sum()
        if self.K > 2:
            threat = self.content["threat"]
            shared = len({*threat["eps"]}) == len({*self.content["radius"]}) == 1
            shared &= isinstance(self.q, str) and len(threat["sides"]) == 2
            if not shared or threat["sides"][0] != threat["sides"][1]:
                return None
            size, scale = self.size, numbers(self.content["threat"]["sides"][0])
            eps = float.fromhex(threat["eps"][0]) * float.fromhex(self.content["radius"][0])
            ball = LpBall(exponent(self.q), eps, scale)
            used = size > 0
            data = LabelledData(self.X, self.y, list("abc"), np.arange(3), size)
            problem = data.problem(ball, self.content["claim"]["fit_intercept"])
            worst = joint_certificates.pair_perturbations(problem, W)
            return float(joint_certificates.margin_bound(problem, norm, a[used].T, worst))
        a, up, down = a.sum(axis=1), *self.ends
        g = (np.where(self.y == 1, a, -a)) @ self.X
        sign = self.y == 1
        rise = a @ np.where(sign[:, None], up, down)  # how far the weighted sum can go
        fall = a @ np.where(sign[:, None], down, up)
        bounds = np.where(g < 0, rise, fall)
        if self.q == "inf":
            return float(norm.dual.value(g - np.clip(g, -bounds, bounds)))
        one = FeatureBudget(self.q, bounds) if isinstance(self.q, int) else None
        one = one or LpBall(exponent(self.q), 1.0, bounds)
        return float(norm.dual.value(residual(one, g[None], np.ones(1), norm.dual)[0]))

    def figures(self):
        """The lower and the upper figure; None for one that is not computed here."""
        claim, size = self.content["claim"], self.size
        W, leads = self.leads()
        margins = {i: lead - loss for i, (lead, loss) in leads.items()}
        if claim["kind"] == "accuracy":
            return (sum(size[i] * (m > 0).all() for i, m in margins.items()) / size.sum(),) * 2
        if claim["kind"] == "factor":
            with np.errstate(divide="ignore", invalid="ignore"):
                return min(np.min(lead / loss) for lead, loss in leads.values()), None
        if claim["kind"] == "margin":
            norm = LpNorm(exponent(claim["p"]))
            least = min(m.min() for m in margins.values())
            return least / norm.value((W[1] if self.K == 2 else W).ravel()), self.bound(norm, W)
        terms = np.array([np.exp(-m).sum() for m in margins.values()])
        soft, share = claim["loss"] == "logistic", size / size.sum()
        risk = share[size > 0] @ (np.log1p(terms) if soft else terms)
        a = self.weights() if soft else self.weights() / self.weights().sum()
        left = np.where(a.any(axis=1), share - a.sum(axis=1), 0.0) * soft
        a, share = np.column_stack([a, left]), np.where(share > 0, share, 1.0)[:, None]
        dual = -float(np.sum(a * np.log(np.where(a > 0, a, 1.0) / np.where(a > 0, share, 1.0))))
        return np.log(dual) if soft else dual, np.log(risk)


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
    names = ["lower", "upper", "eps", "coef", "weight", "radius", "side", "classes", "q", "places"]
    if dual is not None:
        names += ["dual", "dual", "left out", "perturbation"]
    name = rng.choice(names)
    if name in claim:
        claim[name] = mutate(claim[name], rng)
    elif name == "q":
        threat["q"] = rng.choice([q for q in ("1", "2", "inf", 2, 3) if q != threat["q"]])
    elif name == "classes":
        content["classes"].reverse()
    elif name == "places":
        content["places"] += rng.choice([-7, -1, 1])
    elif name == "left out":
        dual["weights"].pop(rng.randrange(len(dual["weights"])))
    elif name == "dual":
        entry = rng.choice(dual["weights"])
        entry[2] = mutate(entry[2], rng)
    else:
        values = {
            "eps": threat["eps"],
            "side": rng.choice(threat["sides"]),
            "coef": rng.choice(content["predictor"]["coef"]),
            "perturbation": rng.choice(dual["perturbations"])[2] if dual else None,
        }.get(name, content.get(name))
        at = rng.randrange(len(values))
        values[at] = mutate(values[at], rng)
    return name, content


@pytest.fixture(scope="module")
def mutants(certificates):
    """Changed certificates: a list of (X, y, name of the number, content, valid, line)."""
    rng, found = random.Random(0), []
    for turn in range(MUTANTS):
        X, y, certificate = certificates[turn % len(certificates)]
        name, content = mutant(certificate.content, rng)
        data = LabelledData.of(X, y)
        found.append((X, y, name, content, *check.Proof().check(content, data.rows, data.labels)))
    return found


def test_changed_certificates_are_rejected_unless_they_are_true(mutants):
    accepted = {}
    for X, y, name, content, valid, _ in mutants:
        if not valid:
            continue
        accepted[name] = accepted.get(name, 0) + 1
        lower, upper = InFloats(content, X, y).figures()
        claim = content["claim"]
        slack = 1e-6 if claim["kind"] == "margin" and len(content["classes"]) > 2 else 1e-9
        assert float.fromhex(claim["lower"]) <= lower + 1e-9 + slack * abs(lower), (name, claim)
        upper = lower if upper is None else upper
        if claim["kind"] == "margin":  # the bound of the perturbations that the library finds
            assert float.fromhex(claim["upper"]) >= (1 - slack) * upper - 1e-9, (name, claim)
        else:
            assert float.fromhex(claim["upper"]) >= upper - 1e-9, (name, claim)
    # what is accepted is less than claimed before, or changes next to nothing
    assert sum(accepted.values()) < MUTANTS / 2
    assert accepted.get("left out", 0) == accepted.get("classes", 0) == 0


def test_the_second_checker_judges_changed_certificates_alike(mutants, second_checker):
    verdicts = second_checker([(X, y, content) for X, y, _, content, _, _ in mutants])
    for (*_, name, content, valid, line), verdict in zip(mutants, verdicts, strict=True):
        assert verdict.startswith("VALID") == valid, (name, content["claim"], line, verdict)


# --- the rules, one at a time


def of_kind(certificates, kind, n_classes=2):
    """The first certificate of a kind, to be changed, and its data."""
    for X, y, certificate in certificates:
        content = certificate.content
        if content["claim"]["kind"] == kind and len(content["classes"]) == n_classes:
            return copy.deepcopy(content), LabelledData.of(X, y)
    raise AssertionError(kind)


def double(text):
    """A hexadecimal integer, doubled."""
    return f"{2 * int(text, 16):x}"


def breach(content, rule):
    """Change a certificate itself so that it breaks this rule, and claims next to nothing."""
    dual, claim = content["dual"], content["claim"]
    claim["lower"], claim["upper"] = "-0x1.0p+1000", "0x1.0p+1000"
    if rule == "twice":
        dual["weights"].append(dual["weights"][0])
    elif rule == "negative":
        dual["weights"][0][2] = "-" + dual["weights"][0][2]
    elif rule == "own class":
        dual["weights"][0][1] = 1 - dual["weights"][0][1]
    elif rule == "not balanced":
        claim["fit_intercept"] = True
        dual["weights"][0][2] = double(dual["weights"][0][2])
    elif rule == "out of the ball":
        dual["perturbations"][0][2] = [x + "0000" for x in dual["perturbations"][0][2]]
    elif rule == "not cancelled":
        dual["perturbations"][0][2] = ["0" for _ in dual["perturbations"][0][2]]
    elif rule == "negative scale":
        content["threat"]["sides"][0][0] = "-0x1.0p+0"
    elif rule == "lower":
        claim["lower"] = "0x1.0p+1000"
    elif rule == "upper":
        claim["upper"] = "-0x1.0p+1000"
    elif rule == "digest":
        content["sha256"] = "0" * 64
    elif rule == "intercept":
        claim["fit_intercept"], content["predictor"]["intercept"][1] = False, "0x1.0p+0"
    elif rule == "first of two":
        content["predictor"]["intercept"][0] = "0x1.0p+0"
    elif rule == "a pair twice":
        dual["perturbations"] *= 2


@pytest.mark.parametrize(
    ("rule", "kind", "line"),
    [
        ("twice", "margin", "weights: the entry"),
        ("negative", "margin", "weights: the entry"),
        ("own class", "margin", "weights: the entry"),
        ("not balanced", "margin", "weights: classes not balanced"),
        ("out of the ball", "margin", "times beyond the sets"),
        ("a pair twice", "margin", "perturbations: (0, 1)"),
        ("not cancelled", "log_risk", "perturbations: G + F is not 0"),
        ("negative scale", "accuracy", "predictor: sample 0 moves by less than 0"),
        ("intercept", "accuracy", "predictor: not 0 where it must be"),
        ("first of two", "margin", "predictor: not 0 where it must be"),
        ("digest", "accuracy", "data: sha256"),
        ("lower", "margin", "claim: lower"),
        ("lower", "log_risk", "claim: lower"),
        ("lower", "accuracy", "claim: lower"),
        ("lower", "factor", "claim: lower"),
        ("upper", "factor", "claim: upper"),
        ("upper", "margin", "claim: upper"),
        ("upper", "log_risk", "claim: upper"),
        ("upper", "accuracy", "claim: upper"),
        ("none", "margin", None),
        ("none", "log_risk", None),
        ("none", "accuracy", None),
    ],
)
def test_each_rule_refuses_its_breach(certificates, rule, kind, line):
    content, data = of_kind(certificates, kind)
    breach(content, rule)
    valid, found = check.Proof().check(content, data.rows, data.labels)
    assert valid == (line is None)
    assert found.startswith("VALID" if valid else "INVALID")
    assert valid or line in found


def deformed(node):
    """Copies of a tree with something else in the place of it, of a part, or of a part's first."""
    yield from (None, 1, -1.5, "x", "0x1.0p+5000", [], {}, [[]])
    keys = list(node) if isinstance(node, dict) else range(1) if isinstance(node, list) else ()
    for key in keys:
        for other in deformed(node[key]):
            parts = node.copy()
            parts[key] = other
            yield parts


@pytest.mark.parametrize("kind", ["margin", "log_risk", "factor", "accuracy"])
def test_what_has_not_the_form_of_a_certificate_gets_a_verdict(certificates, kind):
    content, data = of_kind(certificates, kind)
    for part in ("classes", "threat", "weight", "radius", "claim", "dual", "predictor"):
        for other in deformed(content[part]):
            valid, line = check.Proof().check({**content, part: other}, data.rows, data.labels)
            assert line.startswith("VALID " if valid else "INVALID ")
    for other in (
        None,
        1,
        "x",
        [],
        {},
        *({**content, part: None} for part in ("sha256", "format")),
    ):
        assert not check.Proof().check(other, data.rows, data.labels)[0]
    for rows in ([], [[]], [*data.rows[:-1], [1.0]], [*data.rows[:-1], ["x"] * 4]):
        assert not check.Proof().check(content, rows, data.labels)[0]


def test_a_fault_of_the_checker_is_no_verdict(certificates, monkeypatch):
    content, data = of_kind(certificates, "margin")

    def norm(values, q, dual=False):
        raise AttributeError("a fault")

    monkeypatch.setattr(check, "norm", norm)
    with pytest.raises(AttributeError, match="a fault"):
        check.Proof().check(content, data.rows, data.labels)


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
    certificate.save(folder / "c.json")
    rows = [",".join(map(repr, row)) for row in np.column_stack([X, y]).tolist()]
    for lines in (["a,b,c,d,label", *rows], [*rows[:3], "a,b,c,d,label", *rows[3:]]):
        (folder / "d.csv").write_text("\n".join(lines))
        status, line = run("c.json", "d.csv")
        # names are skipped in the first line only
        assert line.startswith("VALID" if lines[1:] == rows else "INVALID file")
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
    assert check.norm([3, 4], "2") == [5, 5]
    assert check.norm([3, 4], 2) == [4, 4]
    assert check.norm([3, 4, 1], 2, dual=True) == [7, 7]


@pytest.mark.parametrize(
    ("text", "name"),
    [("1", "1"), ("1.0", "1"), ("1e0", "1"), (" a b ", "a b"), ("0.5", "0.5"), ("True", "True")],
)
def test_labels_as_text(text, name):
    assert check.label(text) == name
