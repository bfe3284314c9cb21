// A second checker of certificates, written apart from sklearn_robust/check.py, for node.
//
//     node check.mjs data.csv certificates.json
//
// The JSON is an array of certificates; each gets a line, VALID or INVALID and why. Numbers are
// dyadic, [m, e] = m 2^e with a BigInt m. Instead of computing figures it decides inequalities:
// a margin by  lead - eps ||s (w_j - w_k)||_q* - lower ||w||_p >= 0, with norms rounded up.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const P = 220; // binary places of roots, exp and log
const SLACK = 1n << 24n; // what the series below may be wrong by, in units of 2^-P
const DUAL = { 1: "inf", 2: "2", inf: "1" };

class Fails extends Error {}
const need = (holds, line) => { if (!holds) throw new Fails(line); };

// --- dyadic numbers
const ZERO = [0n, 0];
const mul = (a, b) => [a[0] * b[0], a[1] + b[1]];
const neg = (a) => [-a[0], a[1]];
const add = (a, b) => {
  if (a[0] === 0n) return b;
  if (b[0] === 0n) return a;
  return a[1] < b[1] ? add(b, a) : [(a[0] << BigInt(a[1] - b[1])) + b[0], b[1]];
};
const sub = (a, b) => add(a, neg(b));
const abs = (a) => (a[0] < 0n ? neg(a) : a);
const sign = (a) => (a[0] > 0n ? 1 : a[0] < 0n ? -1 : 0);
const below = (a, b) => sign(sub(a, b)) <= 0;
const sum = (list) => list.reduce(add, ZERO);
const larger = (a, b) => (below(a, b) ? b : a);
const ceilDiv = (a, b) => -((-a - (((-a % b) + b) % b)) / b); // b > 0
const number = (x) => { // a double, exactly
  need(Number.isFinite(x), "a number is not finite");
  let e = 0;
  while (!Number.isInteger(x)) { x *= 2; e -= 1; }
  return [BigInt(x), e];
};
const hex = (text) => {
  const parts = /^(-?)0x([01])(?:\.([0-9a-f]+))?p([+-]\d+)$/.exec(text);
  need(parts, `no number: ${text}`);
  const digits = parts[3] ?? "";
  const m = BigInt("0x" + parts[2] + digits);
  return [parts[1] ? -m : m, Number(parts[4]) - 4 * digits.length];
};
const integer = (text) => {
  need(/^-?[0-9a-f]+$/.test(text), `no integer: ${text}`);
  return text[0] === "-" ? -BigInt("0x" + text.slice(1)) : BigInt("0x" + text);
};
const isqrt = (n) => {
  if (n < 2n) return n;
  let x = 1n << BigInt((n.toString(2).length + 1) >> 1);
  for (;;) {
    const y = (x + n / x) >> 1n;
    if (y >= x) return x;
    x = y;
  }
};
const rootUp = ([m, e]) => {
  if (e % 2 !== 0) [m, e] = [m * 2n, e - 1];
  const square = m << BigInt(2 * P);
  const root = isqrt(square);
  return [root * root < square ? root + 1n : root, e / 2 - P];
};
const normUp = (values, p) => {
  if (p === "inf") return values.map(abs).reduce(larger, ZERO);
  if (p === "1") return sum(values.map(abs));
  need(p === "2", `no exponent: ${p}`);
  return rootUp(sum(values.map((x) => mul(x, x))));
};

// --- exp and log in fixed point, 2^-P
const ONE = 1n << BigInt(P);
const atanh2 = (z) => { // 2 atanh(z), |z| <= 1/3
  const square = (z * z) / ONE;
  let [power, total] = [z, 0n];
  for (let k = 1n; power !== 0n; k += 2n) {
    total += power / k;
    power = (power * square) / ONE;
  }
  return 2n * total;
};
const LN2 = atanh2(ONE / 3n);
const fixedUp = ([m, e]) => (e + P >= 0 ? m << BigInt(e + P) : -((-m) >> BigInt(-e - P)));
const lnUp = (above, under) => { // of a fraction of positive integers
  need(above > 0n && under > 0n, "the logarithm of no positive number");
  const n = above.toString(2).length - under.toString(2).length;
  const t = n >= 0 ? (above << BigInt(P)) / (under << BigInt(n)) : (above << BigInt(P - n)) / under;
  return atanh2(((t - ONE) * ONE) / (t + ONE)) + BigInt(n) * LN2 + SLACK;
};
const expUp = (x) => {
  const fixed = fixedUp(x);
  const n = fixed / LN2;
  const rest = fixed - n * LN2;
  let [term, total] = [ONE, 0n];
  for (let k = 1n; term !== 0n; k += 1n) {
    total += term;
    term = (term * rest) / (k * ONE);
  }
  return [total + SLACK, Number(n) - P];
};

// --- data
const label = (text) => {
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value)) return text.trim();
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(17)));
};
const lines = readFileSync(process.argv[2], "utf8").split(/\r?\n/).filter((line) => line !== "");
const cells = lines.map((line) => line.split(",")); // a first line of names is skipped
if (/^\s*[a-z]/i.test(cells[0][0])) cells.shift();
const floats = cells.map((row) => row.slice(0, -1).map(Number));
const labels = cells.map((row) => label(row.at(-1)));
const rows = floats.map((row) => row.map(number));
const hash = createHash("sha256").update(`${rows.length} ${rows[0].length}\n`);
floats.forEach((row, i) => {
  const bytes = Buffer.alloc(8 * row.length);
  row.forEach((x, j) => bytes.writeDoubleLE(x + 0, 8 * j));
  hash.update(bytes).update(`${labels[i]}\n`);
});
const digest = hash.digest("hex");

// --- the claims
function prove(c) {
  need(c.format === 1, "format");
  need(c.sha256 === digest, "data");
  const [n, d, K] = [rows.length, rows[0].length, c.classes.length];
  const y = labels.map((name) => c.classes.indexOf(name));
  need(Math.min(...y) >= 0, "classes");
  const [q, eps, scale] = [c.threat.q, hex(c.threat.eps), c.threat.scale.map(hex)];
  need(DUAL[q] && sign(eps) >= 0 && scale.length === d, "threat");
  need(scale.every((s) => sign(s) >= 0), "scale");
  const size = c.sample_weight.map(hex);
  need(size.length === n && size.every((s) => sign(s) >= 0), "sample_weight");
  const total = sum(size);
  need(sign(total) > 0, "sample_weight");
  const { kind, lower: low, upper: high, p, fit_intercept: free } = c.claim;
  const [lower, upper] = [hex(low), hex(high)];
  const others = (j) => c.classes.map((_, k) => k).filter((k) => k !== j);

  let margins = null; // of each sample and rival, rounded down
  let size_w = ZERO;
  if (c.predictor !== null) {
    const [coef, b] = [c.predictor.coef.map((w) => w.map(hex)), c.predictor.intercept.map(hex)];
    size_w = normUp(coef.flat(), p ?? "1");
    if (K === 2) { coef.unshift(Array(d).fill(ZERO)); b.unshift(ZERO); }
    need(coef.length === K && b.length === K && coef.every((w) => w.length === d), "predictor");
    need(free !== false || b.every((x) => sign(x) === 0), "predictor: intercept");
    const scores = rows.map((x) =>
      coef.map((w, k) => add(b[k], sum(w.map((v, j) => mul(v, x[j]))))));
    const cost = coef.map((w) => coef.map((v) =>
      mul(eps, normUp(w.map((x, j) => mul(scale[j], sub(x, v[j]))), DUAL[q]))));
    margins = scores.map((f, i) => others(y[i]).map((k) => ({
      rival: k, m: sub(sub(f[y[i]], f[k]), cost[y[i]][k]) })));
  }
  const used = [...Array(n).keys()].filter((i) => sign(size[i]) > 0);
  need(used.length > 0, "samples");

  if (kind === "accuracy") { // a root is exact or irrational: rounding up decides all but ties
    const right = sum(used.filter((i) => margins[i].every(({ rival, m }) =>
      sign(m) > 0 || (sign(m) === 0 && sign(eps) === 0 && y[i] < rival))).map((i) => size[i]));
    need(below(mul(lower, total), right), "claim: lower");
    need(below(right, mul(upper, total)), "claim: upper");
    return;
  }

  // weights, their balance, G, and G - F
  const G = c.classes.map(() => Array(d).fill(ZERO));
  const A = c.classes.map(() => Array(K).fill(0n));
  const shift = c.dual.shift;
  need(Number.isInteger(shift) && shift >= 0, "shift");
  const weights = new Map();
  for (const [i, k, text] of c.dual.weights) {
    const a = integer(text);
    need(a > 0n && used.includes(i) && k >= 0 && k < K && k !== y[i], "weights: entry");
    need(!weights.has(`${i} ${k}`), "weights: twice");
    weights.set(`${i} ${k}`, [i, a]);
    A[y[i]][k] += a;
    for (let j = 0; j < d; j += 1) {
      const step = mul([a, -shift], rows[i][j]);
      G[y[i]][j] = add(G[y[i]][j], step);
      G[k][j] = sub(G[k][j], step);
    }
  }
  need(weights.size > 0, "weights: none");
  for (let j = 0; j < K && free !== false; j += 1) {
    const [own, against] = [A[j].reduce((s, a) => s + a), A.reduce((s, row) => s + row[j], 0n)];
    need(own === against, "weights: balance");
  }
  const top = Math.max(...rows.flat().map((x) => (x[0] === 0n ? 0 : -x[1])), 0);
  const pairs = c.classes.flatMap((_, j) => others(j).filter((k) => k > j).map((k) => [j, k]));
  need(c.dual.perturbations.length === pairs.length, "perturbations: pairs");
  pairs.forEach(([j, k], at) => {
    const delta = c.dual.perturbations[at].map((text) => [integer(text), -shift - top]);
    need(delta.length === d, "perturbations: length");
    const moved = delta.map((x, f) => {
      if (sign(x) === 0) return ZERO;
      need(sign(scale[f]) > 0, "perturbations: scale 0");
      const [m, e] = abs(x);
      return [ceilDiv(m << BigInt(P), scale[f][0]), e - P - scale[f][1]];
    });
    const room = mul(eps, [A[j][k] + A[k][j], -shift]);
    need(below(normUp(moved, q), room), "perturbations: ball");
    delta.forEach((x, f) => { G[j][f] = sub(G[j][f], x); G[k][f] = add(G[k][f], x); });
  });
  const left = G.slice(K === 2 ? 1 : 0).flat();
  const all = sum([...weights.values()].map(([, a]) => [a, -shift]));

  if (kind === "margin") {
    need(DUAL[p], "claim: p");
    need(below(normUp(left, DUAL[p]), mul(upper, all)), "claim: upper");
    if (margins === null) return need(sign(lower) <= 0, "claim: lower without a predictor");
    need(sign(size_w) > 0, "predictor: zero");
    // where lower < 0 the norm, rounded up, would prove too much
    if (sign(lower) < 0) size_w = sub(size_w, [SLACK, size_w[1]]);
    for (const i of used) for (const { m } of margins[i]) {
      need(below(mul(lower, size_w), m), "claim: lower");
    }
    return;
  }
  need(kind === "log_risk" && ["exponential", "logistic"].includes(c.claim.loss), "claim: kind");
  need(left.every((x) => sign(x) === 0), "G is not F");
  const soft = c.claim.loss === "logistic";
  const risk = sum(used.map((i) => {
    const terms = sum(margins[i].map(({ m }) => expUp(neg(m))));
    if (!soft) return mul(size[i], terms);
    const fixed = fixedUp(terms) + ONE;
    return mul(size[i], [lnUp(fixed, ONE), -P]);
  }));
  const ratio = (a, b) => { // of dyadic numbers, as integers
    const e = Math.min(a[1], b[1]);
    return [a[0] << BigInt(a[1] - e), b[0] << BigInt(b[1] - e)];
  };
  need(below([lnUp(...ratio(risk, total)), -P], upper), "claim: upper");
  // the dual: -sum a ln(a / s), with the rest of each sample where the loss is logistic
  const unit = soft ? [1n, 0] : all;
  const parts = [...weights.values()].map(([i, a]) => [i, [a, -shift]]);
  const shares = parts.map(([i, a]) => [a, ...ratio(mul(a, total), mul(unit, size[i]))]);
  if (soft) {
    for (const i of new Set(parts.map(([i]) => i))) {
      const own = mul(sum(parts.filter(([k]) => k === i).map(([, a]) => a)), total);
      const rest = sub(size[i], own); // times the total
      need(sign(rest) >= 0, "weights: above the sample's");
      if (sign(rest) > 0) shares.push([{ rest }, ...ratio(rest, size[i])]);
    }
  }
  let dual = 0n; // upper bound on sum a ln(a / s), in 2^-P
  for (const [a, above, under] of shares) {
    const log = lnUp(above, under);
    const [x, of] = a.rest ? ratio(a.rest, total) : ratio(a, unit);
    dual += ceilDiv(x * log, of);
  }
  if (!soft) return need(below(lower, [-dual, -P]), "claim: lower");
  need(dual < 0n, "the bound on the risk is not positive");
  need(below(lower, [lnUp(-dual, ONE) - 2n * SLACK, -P]), "claim: lower");
}

for (const certificate of JSON.parse(readFileSync(process.argv[3], "utf8"))) {
  try {
    prove(certificate);
    console.log("VALID");
  } catch (error) {
    console.log(`INVALID ${error instanceof Fails ? error.message : error}`);
  }
}
