// A second checker of certificates, written apart from sklearn_robust/check.py, for node.
//
//     node check.mjs files.json
//
// The JSON is an array of { data: a CSV text, certificates: [..] }. Each certificate gets a line,
// VALID or INVALID and why. Numbers of the file are BigInts in units of 2^-T, products of k of them
// in 2^-kT. Instead of computing figures it decides inequalities, all rounded one way.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const P = 256n, ONE = 1n << P; // binary places of roots, quotients, exp and log
const SLACK = 1n << 32n; // what the series below may be wrong by, in units of 2^-P
const need = (holds, line) => { if (!holds) throw new Error(line); };
const abs = (x) => (x < 0n ? -x : x);
const sum = (list) => list.reduce((s, x) => s + x, 0n);
const max = (list) => list.reduce((s, x) => (x > s ? x : s), 0n);
const up = (a, b) => a / b + (a % b > 0n ? 1n : 0n); // the quotient, b > 0, rounded up
const root = (n) => { // rounded up
  if (n === 0n) return n;
  let x = 1n << BigInt((n.toString(2).length + 1) >> 1);
  for (let y = (x + n / x) >> 1n; y < x; y = (x + n / x) >> 1n) x = y;
  return x * x < n ? x + 1n : x;
};
const norm = (values, q, dual = false) => { // of numbers >= 0: the q-norm or its dual
  if (q === "2") return root(sum(values.map((x) => x * x)));
  const k = q === "1" ? 1 : q === "inf" ? values.length : q;
  need(Number.isInteger(k) && k >= 1, `no norm: ${q}`);
  if (!dual) return max([max(values), up(sum(values), BigInt(k))]);
  return sum([...values].sort((a, b) => (a < b ? 1 : a > b ? -1 : 0)).slice(0, k));
};
const fraction = (text) => { // of a hexadecimal float: numerator and denominator
  const parts = /^(-?)0x([01])(?:\.([0-9a-f]+))?p([+-]\d+)$/.exec(text);
  need(parts, `no number: ${text}`);
  const m = BigInt(`0x${parts[2]}${parts[3] ?? ""}`) * (parts[1] ? -1n : 1n);
  const e = BigInt(parts[4]) - 4n * BigInt((parts[3] ?? "").length);
  return e < 0n ? [m, 1n << -e] : [m << e, 1n];
};
const integer = (text) => BigInt(`0x${text.replace("-", "")}`) * (text[0] === "-" ? -1n : 1n);
const atanh2 = (z) => { // 2 atanh(z), |z| <= 1/3, in units of 2^-P
  let [power, total] = [z, 0n];
  for (let k = 1n; power !== 0n; k += 2n) {
    total += power / k;
    power = (power * z * z) / (ONE * ONE);
  }
  return 2n * total;
};
const LN2 = atanh2(ONE / 3n);
const ln = (above, under) => { // of a fraction of positive integers, rounded up
  need(above > 0n && under > 0n, "the logarithm of no positive number");
  const n = BigInt(above.toString(2).length - under.toString(2).length);
  const t = n >= 0n ? (above << P) / (under << n) : (above << (P - n)) / under;
  return atanh2(((t - ONE) * ONE) / (t + ONE)) + n * LN2 + SLACK;
};
const exp = (x) => { // rounded up
  let [n, term, total] = [x / LN2, ONE, 0n];
  for (let k = 1n; term !== 0n; k += 1n) {
    total += term;
    term = (term * (x - n * LN2)) / (k * ONE);
  }
  return n >= 0n ? (total + SLACK) << n : ((total + SLACK) >> -n) + 1n;
};
const label = (text) => (text.trim() === "" || Number.isNaN(Number(text)) ? text.trim()
  : String(Number(Number(text).toPrecision(17))));
const read = (csv) => {
  const cells = csv.split(/\r?\n/).filter((line) => line !== "").map((line) => line.split(","));
  if (/^\s*[a-z]/i.test(cells[0][0])) cells.shift(); // names
  const rows = cells.map((row) => row.slice(0, -1).map(Number));
  const labels = cells.map((row) => label(row.at(-1)));
  const hash = createHash("sha256").update(`${rows.length} ${rows[0].length}\n`);
  rows.forEach((row, i) => hash
    .update(Buffer.from(Float64Array.from(row, (x) => x + 0).buffer)).update(`${labels[i]}\n`));
  return { floats: rows, labels, digest: hash.digest("hex") };
};

function prove(c, { floats, labels, digest }) {
  need(c.format === 2 && c.sha256 === digest, "data");
  const [n, d, K, T] = [floats.length, floats[0].length, c.classes.length, BigInt(c.places)];
  const unit = (k) => 1n << (BigInt(k) * T);
  const whole = (m, of) => { need(m % of === 0n, "places"); return m / of; };
  const exact = (list) => list.map((text) => {
    const [above, below] = fraction(text);
    return whole(above << T, below);
  });
  const rows = floats.map((row) => row.map((x) => {
    let [m, below] = [x, 1n]; // x = m / below
    for (; !Number.isInteger(m); m *= 2) below *= 2n;
    return whole(BigInt(m) << T, below);
  }));
  const y = labels.map((name) => c.classes.indexOf(name));
  const { q } = c.threat, eps = exact(c.threat.eps), sides = c.threat.sides.map(exact);
  const size = exact(c.weight), total = sum(size);
  need(size.length === n && size.every((s) => s >= 0n) && total > 0n, "weight");
  const factor = exact(c.radius).map((r, i) => eps[y[i]] * r); // fails where a label is no class
  need(factor.length === n && sides.every((side) => side.length === d), "sets");
  const ends = (i) => { // how far sample i goes up and down
    const moves = sides.slice(0, 2).map((side) => side.map((s) => factor[i] * s));
    if (sides.length > 2) [1n, -1n].forEach((sign, at) => rows[i].forEach((x, f) => {
      const room = sign * (sides[2 + at][f] - x) * unit(2);
      if (room < moves[at][f]) moves[at][f] = room;
    }));
    need(moves.flat().every((x) => x >= 0n), "bounds");
    return moves;
  };
  const { kind, p, fit_intercept: free } = c.claim;
  const [[low, lowUnit], [high, highUnit]] = [fraction(c.claim.lower), fraction(c.claim.upper)];
  const margins = []; // of each sample of weight and rival: the lead, and its loss, rounded up
  let length = 1n << P;
  if (c.predictor !== null || !["margin", "factor"].includes(kind)) {
    const [w, b] = [c.predictor.coef.map(exact), exact(c.predictor.intercept)];
    need(w.length === K && b.length === K && w.every((v) => v.length === d), "predictor");
    need(K > 2 || [...w[0], b[0]].every((x) => x === 0n), "predictor: the first of two");
    need(free !== false || b.every((x) => x === 0n), "predictor: intercept");
    if (kind === "margin") length = norm(w.flat().map((x) => abs(x) << P), p);
    for (let i = 0; i < n; i += 1) {
      const f = w.map((v, k) => b[k] * unit(1) + sum(v.map((x, at) => x * rows[i][at])));
      for (let k = 0; k < K; k += 1) {
        if (k === y[i] || size[i] === 0n) continue;
        const [rise, fall] = ends(i), v = w[k].map((x, at) => x - w[y[i]][at]);
        const loss = norm(v.map((x, at) => (x > 0n ? x * rise[at] : -x * fall[at])), q, true);
        margins.push({ i, k, lead: (f[y[i]] - f[k]) * unit(2), loss });
      }
    }
  }
  if (kind === "accuracy") { // a root is exact or irrational: rounding up decides all but ties
    const lost = margins.filter(({ i, k, lead, loss }) =>
      lead < loss || (lead === loss && (factor[i] !== 0n || y[i] > k))).map(({ i }) => i);
    const right = sum(size.filter((_, i) => !lost.includes(i)));
    return need(low * total <= right * lowUnit && right * highUnit <= high * total, "claim");
  }
  const G = c.classes.map(() => Array(d).fill(0n)), net = Array(K).fill(0n);
  const weights = new Map(), bounds = new Map();
  for (const [i, k, text] of c.dual.weights) {
    const [a, j] = [integer(text), y[i]];
    need(a > 0n && size[i] > 0n && [...c.classes.keys()].includes(k) && k !== j, "weights: entry");
    need(!weights.has(`${i} ${k}`), "weights: twice");
    weights.set(`${i} ${k}`, [i, a]);
    [net[j], net[k]] = [net[j] + a, net[k] - a];
    rows[i].forEach((x, f) => { G[j][f] += a * x; G[k][f] -= a * x; });
    const pair = `${Math.min(j, k)} ${Math.max(j, k)}`, moves = j < k ? ends(i) : ends(i).reverse();
    const old = bounds.get(pair) ?? moves.map((side) => side.map(() => 0n));
    bounds.set(pair, old.map((side, at) => side.map((s, f) => s + a * moves[at][f])));
  }
  const shares = [...weights.values()], all = sum(shares.map(([, a]) => a));
  need(all > 0n && (free === false || net.every((x) => x === 0n)), "weights: balance");
  let times = 0n; // the multiple of the sets that F needs, in units of 2^-P
  for (const [j, k, texts] of c.dual.perturbations) {
    const D = texts.map(integer), B = bounds.get(`${j} ${k}`);
    need(bounds.delete(`${j} ${k}`) && D.length === d, "perturbations: pair");
    const moved = D.map((x, f) => {
      const b = B[x > 0n ? 0 : 1][f];
      return x === 0n ? 0n : up((abs(x) * unit(2)) << P, b); // fails where b = 0
    });
    times = max([times, norm(moved, q)]);
    D.forEach((x, f) => { G[j][f] += x; G[k][f] -= x; });
  }
  need(kind === "margin" || G.flat().every((x) => x === 0n), "G + F is not 0");
  if (kind === "factor") {
    need(times * highUnit <= high << P, "claim: upper");
    need(margins.every(({ lead, loss }) => lead > 0n || loss > 0n), "predictor: no factor");
    return need(low <= 0n || (margins.length > 0 && margins.every(({ lead, loss }) =>
      lead > 0n && low * loss <= lead * lowUnit)), "claim: lower");
  }
  need(times <= ONE, "perturbations: beyond the sets");
  if (kind === "margin") {
    const left = norm(G.slice(K === 2 ? 1 : 0).flat().map((x) => abs(x) << P), p, true);
    need(left * highUnit <= (high * all * unit(1)) << P, "claim: upper");
    if (margins.length === 0) return need(low <= 0n, "claim: lower without a predictor");
    need(length > 0n, "predictor: zero");
    if (low < 0n) length -= 1n; // rounded up it proves too much
    return need(margins.every(({ lead, loss }) =>
      low * length * unit(3) <= ((lead - loss) * lowUnit) << P), "claim: lower");
  }
  need(kind === "log_risk" && ["exponential", "logistic"].includes(c.claim.loss), "claim: kind");
  const soft = c.claim.loss === "logistic", losses = new Map();
  for (const { i, lead, loss } of margins) {
    losses.set(i, (losses.get(i) ?? 0n) + exp(up((loss - lead) << P, unit(4))));
  }
  const risk = sum([...losses].map(([i, x]) => size[i] * (soft ? ln(x + ONE, ONE) : x)));
  need(ln(risk, total << P) * highUnit <= high << P, "claim: upper");
  // sum a ln(a / s): of weights in units of all of them, or of 1 and with what samples have left
  const of = soft ? unit(1) : all, left = new Map();
  for (const [i, a] of shares) left.set(i, (left.get(i) ?? size[i] * of) - a * total);
  let dual = sum(shares.map(([i, a]) => up(a * ln(a * total, size[i] * of), of)));
  if (soft) for (const [i, a] of left) {
    need(a >= 0n, "weights: above the sample's");
    if (a > 0n) dual += up(a * ln(a, size[i] * of), total * of);
  }
  if (!soft) return need(low << P <= -dual * lowUnit, "claim: lower");
  need(dual < 0n, "the bound on the risk is not positive");
  return need(low << P <= (ln(-dual, ONE) - 2n * SLACK) * lowUnit, "claim: lower");
}

for (const { data, certificates } of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  for (const certificate of certificates) {
    let line = "VALID";
    try { prove(certificate, read(data)); } catch (error) { line = `INVALID ${error.message}`; }
    console.log(line);
  }
}
