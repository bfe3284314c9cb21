"""Decide whether a certificate of sklearn_robust is true of a data set, in exact arithmetic.

    python check.py certificate.json data.csv        (or data.npy; the label is the last column)
It runs alone, on Python's standard library, and prints VALID and the claim (status 0), or INVALID
and the first line that fails (1); a traceback is no verdict. Roots, exp and log are safe bounds.
Class j scores f_j(x) = <w_j, x> + b_j, the first of two classes 0. The robust margin of sample i of
class j against k is m_ik = f_j(x_i) - f_k(x_i) - eps ||s (w_j - w_k)||_q*, q* the dual exponent.
Weights a_ik >= 0, as many of each class as against it where intercepts are free, have the sum G =
sum_ik a_ik (e_j - e_k) x_i^T. Perturbations with ||delta_jk / s||_q <= eps A_jk, A_jk the weight
between j < k, have the flow F = sum_jk (e_j - e_k) delta_jk^T.
margin     min_ik m_ik / ||w||_p <= largest margin <= ||G - F||_p* / sum_ik a_ik
log_risk   Fenchel's bound by weights with G = F <= least log of the risk <= that of the predictor
accuracy   the share of the samples, by sample weight, with m_ik > 0 for all k
"""

import ast
import csv
import hashlib
import json
import struct
import sys
from collections import Counter
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from fractions import Fraction
from itertools import combinations
from math import isqrt
from operator import mul

DUAL, BITS = {"1": "inf", "2": "2", "inf": "1"}, 128  # BITS is the precision of roots
CONTENT = ArithmeticError, LookupError, TypeError, ValueError  # what other content raises
UNREADABLE = *CONTENT, OSError, RecursionError, SyntaxError, csv.Error, struct.error
KINDS, hexed = {kind: kind for kind in ("margin", "log_risk", "accuracy")}, float.fromhex
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


def integers(values):
    """Integers m and a shift k with values = m / 2^k."""
    ratios = [x.as_integer_ratio() for x in values]
    bits = max(below for _, below in ratios).bit_length()
    return [above << bits - below.bit_length() for above, below in ratios], bits - 1


def norm(values, p):
    """Bounds on the p-norm of integers."""
    if p != "2":
        return [Fraction(max(map(abs, values)) if p == "inf" else sum(map(abs, values)))] * 2
    root = isqrt(square := sum(map(mul, values, values)) << 2 * BITS)
    return [Fraction(root, 1 << BITS), Fraction(root + (root * root < square), 1 << BITS)]


def bound(function, x, context):
    """A bound on exp or ln of a fraction: the neighbour of the correctly rounded number."""
    value = getattr(context, function)(context.divide(x.numerator, x.denominator))
    return Fraction(context.next_minus(value) if context is DOWN else context.next_plus(value))


class Proof:
    """A certificate beside its data; `line` is the part of it that is being read."""

    def figures(self, c, rows, labels):
        """The lower and the upper figure that a certificate proves."""
        self.line, self.c = "data", c
        n, self.d = len(rows), len(rows[0])
        sha = hashlib.sha256(f"{n} {self.d}\n".encode())  # then the rows without -0.0, and labels
        for row, name in zip(rows, labels, strict=True):
            sha.update(struct.pack(f"<{self.d}d", *[x + 0.0 for x in row]) + f"{name}\n".encode())
        _require(c["sha256"] == sha.hexdigest() and c["format"] == 1, f"sha256 {sha.hexdigest()}")
        flat, self.top = integers([x for row in rows for x in row])
        self.rows = [flat[at : at + self.d] for at in range(0, len(flat), self.d)]
        self.line, names = "classes", list(c["classes"])
        self.classes, self.y = range(len(names)), [names.index(name) for name in labels]
        self.line, (self.q, eps, scale) = "threat", (c["threat"][x] for x in ("q", "eps", "scale"))
        self.eps, (self.scale, self.places) = Fraction(hexed(eps)), integers(map(hexed, scale))
        sizes = [Fraction(hexed(x)) for x in c["sample_weight"]]
        fit = len(sizes) == n and self.q in DUAL and min(self.eps, *self.scale, *sizes) >= 0
        _require(fit, "q, eps, scale or sample_weight is unfit")
        self.line, total = "claim", sum(sizes)
        self.size = [size / total for size in sizes]
        self.p, self.free = c["claim"]["p"], c["claim"]["fit_intercept"] is not False
        return getattr(self, KINDS[c["claim"]["kind"]])()

    def margins(self):
        """Bounds on m_ik of samples of positive weight, whether j wins a tie, and on ||w||_p."""
        self.line, K = "predictor", len(self.classes)
        coef, b = [["0"] * self.d] * (K == 2), ["0"] * (K == 2)  # those of the first of two
        parts = [b + self.c["predictor"]["intercept"], *coef, *self.c["predictor"]["coef"]]
        flat, shift = integers([hexed(x) for part in parts for x in part])
        b, w = flat[:K], [flat[K + self.d * j :][: self.d] for j in self.classes]
        fit = [len(part) for part in parts] == [K] + [self.d] * K
        _require(fit and (self.free or not any(b)), "another shape, or b where there is none")
        found = {i: [] for i, size in enumerate(self.size) if size}
        penalty, unit = {}, self.eps / (1 << shift + self.places)
        for j, k in combinations(self.classes, 2):
            moved = [s * (u - v) for s, u, v in zip(self.scale, w[j], w[k], strict=True)]
            penalty[j, k] = penalty[k, j] = [unit * x for x in norm(moved, DUAL[self.q])[::-1]]
        for i in found:
            x, j = self.rows[i], self.y[i]
            scores = [sum(map(mul, x, v)) + (c << self.top) for v, c in zip(w, b, strict=True)]
            for k in set(self.classes) - {j}:
                lead = Fraction(scores[j] - scores[k], 1 << self.top + shift)
                found[i].append((*[lead - x for x in penalty[j, k]], not self.eps and j < k))
        return found.items(), [size / (1 << shift) for size in norm(flat[K:], self.p)]

    def residual(self):
        """G - F and the sum of the weights, in units of 2^-(shift + top)."""
        self.line, self.weights = "weights", {}
        A, G = Counter(), [[0] * self.d for _ in self.classes]
        for i, k, text in self.c["dual"]["weights"]:
            a, (j, x) = int(text, 16), (self.y[i], self.rows[i])
            fit = a > 0 <= i and self.size[i] and j != k in self.classes
            _require(fit and (i, k) not in self.weights, f"the entry [{i}, {k}, {text}]")
            self.weights[i, k], A[j, k] = a, A[j, k] + a
            G[j] = [g + a * v for g, v in zip(G[j], x, strict=True)]
            G[k] = [g - a * v for g, v in zip(G[k], x, strict=True)]
        balance = [sum(A[j, k] - A[k, j] for k in self.classes) for j in self.classes]
        _require(not (self.free and any(balance)), f"classes not balanced, by {balance}")
        self.line, pairs = "perturbations", combinations(self.classes, 2)
        for (j, k), texts in zip(pairs, self.c["dual"]["perturbations"], strict=True):
            delta = [int(x, 16) for x in texts]
            up = [-abs(x) << BITS + self.places for x in delta]  # |delta| / s, rounded up
            sizes = [-(u // s) if u else 0 for u, s in zip(up, self.scale, strict=True)]
            room = self.eps * (A[j, k] + A[k, j]) * (1 << self.top + BITS)
            _require(norm(sizes, self.q)[1] <= room, f"the pair {j}, {k} leaves its ball")
            G[j] = [g - x for g, x in zip(G[j], delta, strict=True)]
            G[k] = [g + x for g, x in zip(G[k], delta, strict=True)]
        return G, sum(A.values()) << self.top

    def margin(self):
        found, size = self.margins() if self.c["predictor"] else ([(0, [[Fraction(0)]])], [1, 1])
        least = min(m[0] for _, of in found for m in of)
        left, total = self.residual()
        length = norm([x for row in left[len(left) == 2 :] for x in row], DUAL[self.p])[1]
        return least / size[least >= 0], length / total

    def log_risk(self):
        soft, size = {"logistic": 1, "exponential": 0}[self.c["claim"]["loss"]], self.size
        losses = {i: sum(bound("exp", -m[0], UP) for m in of) for i, of in self.margins()[0]}
        risk = sum(size[i] * (bound("ln", 1 + x, UP) if soft else x) for i, x in losses.items())
        _require(not any(map(any, self.residual()[0])), "G is not F")
        unit = 1 << self.c["dual"]["shift"] if soft else sum(self.weights.values())
        shares = [(i, Fraction(a, unit)) for (i, _), a in self.weights.items()]
        rest = {i: size[i] for i, _ in shares if soft}  # what the weights leave of the sample's
        for i, a in shares * soft:
            rest[i] -= a
        dual = -sum(a * bound("ln", a / size[i], UP) for i, a in [*shares, *rest.items()] if a)
        return bound("ln", dual, DOWN) if soft else dual, bound("ln", risk, UP)

    def accuracy(self):
        found = self.margins()[0]
        lost = [{i for i, of in found if any((m[s], m[2]) <= (0, 0) for m in of)} for s in (0, 1)]
        return [1 - sum(self.size[i] for i in broken) for broken in lost]

    def check(self, certificate, rows, labels):
        """Whether a certificate is true of the data, and the line that says so."""
        try:
            lower, upper = self.figures(certificate, rows, labels)
            self.line, claim = "claim", certificate["claim"]
            low, high = hexed(claim["lower"]), hexed(claim["upper"])
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
