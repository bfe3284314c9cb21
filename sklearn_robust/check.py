"""Decide whether a certificate of sklearn_robust is true of a data set, in exact arithmetic.

    python check.py certificate.json data.csv        (or data.npy; the label is the last column)
prints VALID and the claim (status 0), or INVALID and the first line that fails (1); a traceback is
no verdict. Roots, exp and log are safe bounds. Sample i of class j moves by delta with ||delta /
b_i||_q <= 1: b_i is up or down times eps_j r_i, and keeps x_i in limits; ||.||_q of a number q is
max(largest, sum / q). Class k scores f_k(x) = <w_k, x> + b_k, the first of two 0, and loses to j by
m_ik = (f_j - f_k)(x_i) - max <w_k - w_j, delta>. Weights a_ik >= 0, as many of a class as against
it where intercepts are free, sum rows to G = sum_ik a_ik (e_j - e_k) x_i^T, and moves to F: to D of
two classes, ||D / B||_q <= 1 with B = sum_ik a_ik b_i.
margin     min_ik m_ik / ||w||_p <= largest margin <= ||G + F||_p* / sum_ik a_ik
log_risk   Fenchel's bound by weights with G + F = 0 <= least log of the risk <= the predictor's
factor     on all b_i: one with m_ik >= 0 <= the largest with a predictor <= one with G + F = 0
accuracy   the share of the samples, by sample weight, with m_ik > 0 for all k
"""

import ast
import csv
import hashlib
import json
import struct
import sys
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from fractions import Fraction
from functools import partial
from math import isqrt
from operator import mul

BITS, both = 128, partial(zip, strict=True)  # BITS is the precision of roots
CONTENT = ArithmeticError, LookupError, TypeError, ValueError  # what other content raises
UNREADABLE = *CONTENT, OSError, RecursionError, SyntaxError, csv.Error, struct.error
DOWN, UP = (Context(50, r, -9999, 9999, traps=[]) for r in (ROUND_FLOOR, ROUND_CEILING))


def _require(holds, line):
    if not holds:
        raise ValueError(line)


def label(text):
    """A label as it is compared: 1, 1.0 and 1e0 are one."""
    try:
        return f"{float(text):.17g}"
    except ValueError:
        return str(text).strip()


def read_data(path):
    """Rows of floats and their labels, of a .csv (a first line of names is skipped) or .npy."""
    if path.endswith(".npy"):
        with open(path, "rb") as file:
            h = ast.literal_eval(file.read(int.from_bytes(file.read(10)[8:], "little")).decode())
            (n, m), kind = h["shape"], {"<f8": "d", "<f4": "f", "<i8": "q"}[h["descr"]]
            flat = struct.unpack(f"<{n * m}{kind}", file.read())
        rows = [flat[i::n] if h["fortran_order"] else flat[i * m : i * m + m] for i in range(n)]
    else:
        with open(path, newline="", encoding="utf-8-sig") as f:
            rows = [x for i, x in enumerate(csv.reader(f)) if x and (i or x[0].strip()[:1] < "A")]
    return [list(map(float, row[:-1])) for row in rows], [label(row[-1]) for row in rows]


def _plus(x, a, y):
    return [v + a * w for v, w in both(x, y)]


def norm(x, q, dual=False):
    """Bounds on the q-norm of integers >= 0, or its dual: of a number the sum of so many."""
    if q != "2":
        _require((k := {"1": 1, "inf": len(x)}.get(q, q)) >= 1, f"no norm {q}")
        return [Fraction(sum(sorted(x)[-k:]) if dual else max(max(x), Fraction(sum(x), k)))] * 2
    root = isqrt(square := sum(map(mul, x, x)) << 2 * BITS)
    return [Fraction(root, 1 << BITS), Fraction(root + (root * root < square), 1 << BITS)]


def bound(function, x, context):
    """A bound on exp or ln of a fraction: the neighbour of the correctly rounded number."""
    value = getattr(context, function)(context.divide(x.numerator, x.denominator))
    return Fraction(context.next_minus(value) if context is DOWN else context.next_plus(value))


class Proof:
    """A certificate beside its data; `line` is the part of it that is being read."""

    def exact(self, of):  # floats, or their hexadecimal texts, in units of 2^-places
        ratios = [(x if isinstance(x, float) else float.fromhex(x)).as_integer_ratio() for x in of]
        return [a << self.places + 1 - b.bit_length() for a, b in ratios]

    def read(self, c, rows, labels):
        self.line, self.c = "data", c
        d, self.places = len(rows[0]), c["places"]
        sha = hashlib.sha256(f"{len(rows)} {d}\n".encode())
        for row, name in both(rows, labels):  # rows without -0.0
            sha.update(struct.pack(f"<{d}d", *[x + 0.0 for x in row]) + f"{name}\n".encode())
        _require(c["sha256"] == sha.hexdigest() and c["format"] == 2, f"sha256 {sha.hexdigest()}")
        self.rows, self.free = list(map(self.exact, rows)), c["claim"]["fit_intercept"] is not False
        self.line, names = "classes", list(c["classes"])
        self.classes, self.y = range(len(names)), [names.index(name) for name in labels]
        self.line, of = "threat", c["threat"]
        self.q, (eps, *self.sides) = of["q"], map(self.exact, (of["eps"], *of["sides"]))
        self.line, (size, radius) = "samples", map(self.exact, (c["weight"], c["radius"]))
        _require(len(size) == len(rows) and min(size) >= 0, "another number, or one below 0")
        total, self.factor = sum(size), [eps[j] * r for j, r in both(self.y, radius)]
        self.size = [Fraction(x, total) for x in size]

    def ends(self, i):  # how far sample i moves up and down, in units of 2^-(3 places)
        (up, down, *limits), x = self.sides, self.rows[i]
        ends = [[self.factor[i] * v for v in side] for side in (up, down)]
        if limits:
            room = _plus(limits[0], -1, x), _plus(x, -1, limits[1])
            ends = [[min(e, v << 2 * self.places) for e, v in both(*of)] for of in both(ends, room)]
        _require(min(map(min, ends)) >= 0, f"sample {i} moves by less than 0")
        return ends

    def margins(self):  # leads of samples of weight, bounds on what they lose, if ties are won
        self.line, f = "predictor", self.c["predictor"]
        b, self.w = self.exact(f["intercept"]), [self.exact(row) for row in f["coef"]]
        plain = len(self.classes) > 2 or not any([*self.w[0], b[0]])
        _require(plain and (self.free or not any(b)), "not 0 where it must be")
        for i in (out := {i: [] for i, size in enumerate(self.size) if size}):  # 2^-(4 places)
            j, x = self.y[i], self.rows[i]
            f = [sum(map(mul, x, w)) + (c << self.places) for w, c in both(self.w, b)]
            for k, w in [(k, w) for k, w in both(self.classes, self.w) if k != j]:
                sides = both(_plus(w, -1, self.w[j]), *self.ends(i))
                cost = norm([v * u if v > 0 else -v * o for v, u, o in sides], self.q, dual=True)
                out[i].append((f[j] - f[k] << 2 * self.places, *cost, j < k and not self.factor[i]))
        return out

    def residual(self):  # G + F and the sum of the weights, and the least t with F of t times B
        self.line, self.weights = "weights", {}
        G, B = [[0] * len(self.rows[0]) for _ in self.classes], {}
        net, ratio = [0 for _ in self.classes], Fraction(0)
        for i, k, text in self.c["dual"]["weights"]:
            a, j = int(text, 16), self.y[i]
            fit = a > 0 <= i and self.size[i] and j != k in self.classes
            _require(fit and (i, k) not in self.weights, f"the entry [{i}, {k}, {text}]")
            self.weights[i, k] = a
            net[j], net[k] = net[j] + a, net[k] - a
            G[j], G[k] = _plus(G[j], a, self.rows[i]), _plus(G[k], -a, self.rows[i])
            pair, ends = (min(j, k), max(j, k)), self.ends(i)[:: 1 if j < k else -1]
            B[pair] = [_plus(b, a, e) for b, e in both(B.get(pair, [[0] * len(G[0])] * 2), ends)]
        _require(not (self.free and any(net)), f"classes not balanced, by {net}")
        self.line, bits = "perturbations", 2 * self.places + BITS
        for j, k, texts in self.c["dual"]["perturbations"]:
            D = [int(x, 16) for x in texts]
            sides = [(-abs(x) << bits, u if x > 0 else o) for x, u, o in both(D, *B.pop((j, k)))]
            sizes = [-(x // b) if x else 0 for x, b in sides]  # |D / B|, rounded up
            ratio = max(ratio, norm(sizes, self.q)[1] / (1 << BITS))
            G[j], G[k] = _plus(G[j], 1, D), _plus(G[k], -1, D)
        return G, sum(self.weights.values()) << self.places, ratio

    def figures(self, kind):  # the lower and the upper one that are proven
        of = self.margins() if self.c["predictor"] or kind not in ("margin", "factor") else {}
        if kind == "accuracy":
            won = [[i for i in of if all((m[0], m[3]) > (m[s], 0) for m in of[i])] for s in (2, 1)]
            return [sum(self.size[i] for i in right) for right in won]
        (G, total, ratio), leads = self.residual(), [m for i in of for m in of[i]]
        _require(kind == "margin" or not any(map(any, G)), "G + F is not 0")
        if kind == "factor":
            return min([max(m[0], 0) / m[2] for m in leads if m[2] or m[0] <= 0], default=0), ratio
        _require(ratio <= 1, f"{float(ratio)} times beyond the sets")
        if kind == "log_risk":
            return self.log_risk({i: [m[2] - m[0] for m in of[i]] for i in of})
        p, coef = {"margin": self.c["claim"]["p"]}[kind], self.w if of else [[1]]
        least = min((m[0] - m[2] for m in leads), default=0) * Fraction(1, 1 << 3 * self.places)
        size, rows = norm([abs(v) for w in coef for v in w], p), G[len(G) == 2 :]
        left = norm([abs(x) for row in rows for x in row], p, dual=True)[1]
        return least / size[least >= 0], left / total

    def log_risk(self, of):
        soft, size = {"logistic": 1, "exponential": 0}[self.c["claim"]["loss"]], self.size
        losses = {i: sum(bound("exp", x / (1 << 4 * self.places), UP) for x in of[i]) for i in of}
        risk = sum(size[i] * (bound("ln", 1 + x, UP) if soft else x) for i, x in losses.items())
        unit = 1 << self.places if soft else sum(self.weights.values())
        shares = [(i, Fraction(a, unit)) for (i, _), a in self.weights.items()]
        rest = {i: size[i] for i, _ in shares if soft}  # what the weights leave of the sample's
        for i, a in shares * soft:
            rest[i] -= a
        dual = -sum(a * bound("ln", a / size[i], UP) for i, a in [*shares, *rest.items()] if a)
        return bound("ln", dual, DOWN) if soft else dual, bound("ln", risk, UP)

    def check(self, certificate, rows, labels):  # whether it is true, and a line that says so
        try:
            self.read(certificate, rows, labels)
            claim, (lower, upper) = certificate["claim"], self.figures(certificate["claim"]["kind"])
            self.line, (low, high) = "claim", map(float.fromhex, (claim["lower"], claim["upper"]))
            _require(low <= lower, f"lower: proven is only {float(lower)!r}")
            _require(high >= upper, f"upper: proven is only {float(upper)!r}")
        except UNREADABLE as error:  # what cannot be read proves nothing
            return False, f"INVALID {self.line}: {error}"
        return True, f"VALID {low!r} <= {claim['kind']} <= {high!r}"


if __name__ == "__main__":
    try:
        with open(sys.argv[1], encoding="utf-8") as file:
            valid, line = Proof().check(json.load(file), *read_data(sys.argv[2]))
    except UNREADABLE as error:
        valid, line = False, f"INVALID file: {error!r}\n{__doc__}"
    print(line)
    sys.exit(not valid)
