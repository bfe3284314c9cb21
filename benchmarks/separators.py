"""Aim: exact robust separators, certified to 1e-8, sooner than from any general solver; the tables
tell where it is reached.

For every case (p, q) and data set: `min_norm_separator` (the public call with all it does) against
every general solver in every form of `_peers.py`. The accuracy of every answer, ours too, is
recomputed here with plain NumPy: the relative gap of the margin of its w to the bound that our dual
weights prove. The ratio is to the fastest peer whose gap is at most 1e-6.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/separators.py

Options: `--data` and `--case` choose cells, `--limit` the seconds a run may take, `--plots` draws
time against n and d instead.
"""

import argparse
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import _harness as harness  # first: it sets one thread
import _peers
import numpy as np

TOL = 1e-8
ACCURATE = 1e-6  # gap above which a peer's time does not count
PACKAGES = ("numpy", "scipy", "scikit-learn", "highspy", "piqp", "clarabel", "ecos", "scs")


@dataclass(frozen=True)
class Case:
    """eps = share * eps*; 0 where p and q are dual, for there eps changes nothing. Targets: ratios
    to reach, by data set."""

    p: float
    q: float
    share: float
    targets: dict[str, float]

    @property
    def name(self) -> str:
        threat = "eps = eps*/2" if self.share else "eps = 0"
        return f"({self.p:g}, {self.q:g}), {threat}"

    @property
    def key(self) -> str:
        return f"{self.p:g},{self.q:g}"


DATA = ("g100x512", "g500x2000", "s2000x500", "s20000x500", "g500x20000", "digits38")


def _targets(*ratios: float) -> dict[str, float]:
    return dict(zip(DATA, ratios, strict=False)) | {"digits38": 1.0}


CASES = (
    Case(2, math.inf, 0.5, _targets(30, 50, 3, 8, 100)),
    Case(1, math.inf, 0.0, _targets(8, 15, 20, 25, 30)),
    Case(2, 2, 0.0, _targets(20, 15, 1.5)),
    Case(math.inf, math.inf, 0.5, _targets(8, 20, 20)),
    Case(1, 2, 0.5, _targets(5, 10, 10)),
    Case(2, 1, 0.5, _targets(5, 10, 10)),
)
SVC_TARGETS = {("2,2", "g100x512"): 3.0}  # to LinearSVC alone


@cache
def signed_rows(name: str) -> np.ndarray:
    """gNxD: Gaussian with a Gaussian teacher; sNxD: the same, moved apart along it by a margin;
    digits38: digits 3 and 8."""
    if name == "digits38":
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        chosen = (y == 3) | (y == 8)
        return np.where(y[chosen] == 8, 1.0, -1.0)[:, None] * X[chosen]
    n, d = (int(size) for size in name[1:].split("x"))
    rng = np.random.default_rng(0)
    X, teacher = rng.standard_normal((n, d)), rng.standard_normal(d)
    teacher /= np.linalg.norm(teacher)
    Z = np.sign(X @ teacher)[:, None] * X
    return Z + teacher if name[0] == "s" else Z


# ---- the certificate, recomputed


def dual_exponent(r: float) -> float:
    return {1.0: math.inf, math.inf: 1.0}.get(r) or r / (r - 1)


def margin(Z: np.ndarray, w: np.ndarray, p: float, q: float, eps: float) -> float:
    return float(((Z @ w).min() - eps * np.linalg.norm(w, dual_exponent(q))) / np.linalg.norm(w, p))


def bound(Z: np.ndarray, weights: np.ndarray, p: float, q: float, eps: float) -> float:
    """min |g - delta|_p* over |delta|_q <= eps, g = Z^T a: no margin is larger. Residuals in closed
    form or by bisection."""
    assert weights.min() >= 0
    g = np.abs((weights / weights.sum()) @ Z)
    dual_p = dual_exponent(p)
    if eps == 0:
        return float(np.linalg.norm(g, dual_p))
    if q == math.inf:
        return float(np.linalg.norm(np.maximum(g - eps, 0), dual_p))
    assert p == 1 or q == 1  # the part above a level t is taken away, a part of q-norm eps
    low, high = 0.0, float(g.max())
    for _ in range(200):
        level = (low + high) / 2
        low, high = (
            (level, high) if np.linalg.norm(np.maximum(g - level, 0), q) > eps else (low, level)
        )
    return float(np.linalg.norm(np.minimum(g, high), dual_p))  # from the feasible side


# ---- runs


def our_solve(
    Z: np.ndarray, p: float, q: float, eps: float
) -> Callable[[], tuple[np.ndarray, np.ndarray, str]]:
    from sklearn_robust.separators import min_norm_separator

    X, y = _peers.labelled(Z)

    def solve() -> tuple[np.ndarray, np.ndarray, str]:
        separator = min_norm_separator(X, y, p=p, q=q, eps=eps, tol=TOL)
        return separator.coef, separator.dual_coef, separator.solver

    return solve


def eps_star(Z: np.ndarray, q: float) -> float:
    """In a process of its own: this one starts no threads."""
    from sklearn_robust.separators import max_margin

    return harness.measure(
        lambda: lambda: max_margin(*_peers.labelled(Z), q=q).margin, limit=600
    ).answer


@cache
def warm_up_problem(q: float, share: float) -> tuple[np.ndarray, float]:
    """Small, solved once before the clock starts, so that libraries are loaded."""
    Z = signed_rows("s40x30")
    return Z, share * eps_star(Z, q) if share else 0.0


def timed(
    make: Callable[[np.ndarray, float], Callable[[], Any]],
    Z: np.ndarray,
    case: Case,
    eps: float,
    limit: float,
) -> Any:
    small, small_eps = warm_up_problem(case.q, case.share)

    def build() -> Callable[[], Any]:
        with suppress(_peers.TooLarge):
            make(small, small_eps)()
        return make(Z, eps)

    return harness.measure(build, limit)


@dataclass
class Row:
    case: str
    data: str
    eps: float
    solver: str
    seconds: float
    runs: int
    gap: float
    failure: str

    @property
    def counts(self) -> bool:
        return self.runs > 0 and self.gap <= ACCURATE


def run_cell(case: Case, data: str, limit: float, only: list[str] | None = None) -> list[Row]:
    """Ours first, then every peer."""
    Z, (p, q) = signed_rows(data), (case.p, case.q)
    eps = case.share * eps_star(Z, q) if case.share else 0.0
    ours = timed(lambda Z, eps: our_solve(Z, p, q, eps), Z, case, eps, limit)
    if ours.answer is None:
        raise RuntimeError(f"{case.name} on {data}: {ours.failure}")
    coef, weights, stage = ours.answer
    best = bound(Z, weights, p, q, eps)

    def row(solver: str, measurement: harness.Measurement, w: np.ndarray | None) -> Row:
        gap = math.nan if w is None else 1 - margin(Z, w, p, q, eps) / best
        if gap < -1e-12:
            raise AssertionError(
                f"{solver} beats our bound on {case.name}, {data}: relative gap {gap}"
            )
        return Row(
            case.key,
            data,
            eps,
            solver,
            measurement.median,
            len(measurement.seconds),
            gap,
            measurement.failure,
        )

    rows = [row(f"ours ({stage})", ours, coef)]
    for name, make in _peers.peers(p, q).items():
        if only is None or name in only:
            measurement = timed(make, Z, case, eps, limit)
            rows.append(row(name, measurement, measurement.answer))
    return rows


def fastest(rows: list[Row]) -> Row | None:
    return min((row for row in rows[1:] if row.counts), key=lambda row: row.seconds, default=None)


# ---- tables


def shown(row: Row, limit: float) -> str:
    if row.runs:
        return harness.seconds(row.seconds)
    return f"> {limit:g}" if row.failure == "time limit" else row.failure


def cell_line(case: Case, rows: list[Row], limit: float) -> list[str]:
    ours, peer = rows[0], fastest(rows)
    target = case.targets.get(ours.data)
    ratio = (peer.seconds if peer else limit) / ours.seconds
    text = f"{'' if peer else '> '}{ratio:.3g}x"
    verdict = (
        "met" if target and ratio >= target else "missed" if peer else "not decided in the limit"
    )
    met = "-" if target is None else f"{target:g}x {verdict}"
    other = (
        f"{peer.solver} | {harness.seconds(peer.seconds)} | {peer.gap:.0e}"
        if peer
        else f"none within 1e-6 | > {limit:g} | -"
    )
    stage = ours.solver.removeprefix("ours (").removesuffix(")")
    line = [
        case.name,
        ours.data,
        harness.seconds(ours.seconds),
        f"{ours.gap:.0e}",
        stage,
        *other.split(" | "),
        text,
        met,
    ]
    svc_target, svc = (
        SVC_TARGETS.get((case.key, ours.data)),
        [row for row in rows if row.solver == "LinearSVC" and row.runs],
    )
    if svc_target and svc:
        line[-1] += f"; to LinearSVC {svc[0].seconds / ours.seconds:.3g}x of {svc_target:g}x"
    return [harness.bold(entry) for entry in line] if ratio < 1 or ours.gap > TOL else line


def report(cells: list[tuple[Case, list[Row]]], paths: str, limit: float) -> str:
    parts = [
        "# Exact separators: time to a certified separator\n",
        harness.machine(PACKAGES) + "\n",
        "CPU seconds, one thread: medians of 5 runs where one takes less than 1 s, of 3 below 20 "
        "s, else one run. "
        f"A process for each solver, warmed up on 40 x 30; a run is ended after {limit:g} s of "
        f"wall time. Ours: "
        "`min_norm_separator(X, y, p, q, eps, tol=1e-8)`, all included; peers from matrices in "
        "their own layout. "
        "Gap: relative, of the margin of the solver's w to the bound of our dual weights, "
        "recomputed in NumPy. "
        "Fastest peer: of those with a gap of at most 1e-6. Bold: we are slower than it, or above "
        "1e-8.\n",
        harness.table(
            [
                "case (p, q)",
                "data",
                "ours (s)",
                "gap",
                "ours ended in",
                "fastest peer",
                "peer (s)",
                "gap",
                "ratio",
                "target",
            ],
            [cell_line(case, rows, limit) for case, rows in cells],
        ),
        *(["## A path of 20 radii\n", paths] if paths else []),
        "## Every solver\n",
        "Seconds and gap; gaps above 1e-6 do not count.\n",
    ]
    for case in dict.fromkeys(case.name for case, _ in cells):
        mine = [rows for one, rows in cells if one.name == case]
        names = dict.fromkeys(
            "ours" if row is rows[0] else row.solver for rows in mine for row in rows
        )
        lines = []
        for name in names:
            line = [name]
            for rows in mine:
                row = (
                    rows[0]
                    if name == "ours"
                    else next(row for row in rows[1:] if row.solver == name)
                )
                line.append(shown(row, limit) + (f" ({row.gap:.0e})" if row.runs else ""))
            lines.append(line)
        parts += [f"### {case}\n", harness.table(["", *(rows[0].data for rows in mine)], lines)]
    return "\n".join(parts)


# ---- paths


def path_line(data: str) -> list[str]:
    """Twenty radii in one call, twenty in a loop, and the largest alone, in turns in one
    process."""
    from sklearn_robust.separators import min_norm_separator, separator_path

    Z = signed_rows(data)
    X, y = _peers.labelled(Z)
    radii = np.linspace(0, 0.95, 20) * eps_star(Z, math.inf)

    def build() -> Callable[[], Any]:
        min_norm_separator(X, y, p=2, q=math.inf, eps=radii[10])

        def run() -> Any:
            clock, marks = harness.time.process_time, []
            start = clock()
            path = separator_path(X, y, p=2, q=math.inf, eps=radii, tol=TOL)
            marks.append(clock() - start)
            start = clock()
            cold = [min_norm_separator(X, y, p=2, q=math.inf, eps=eps, tol=TOL) for eps in radii]
            marks.append(clock() - start)
            start = clock()
            min_norm_separator(X, y, p=2, q=math.inf, eps=radii[-1], tol=TOL)
            marks.append(clock() - start)
            gaps = [
                1
                - margin(Z, s.coef, 2, math.inf, s.eps) / bound(Z, s.dual_coef, 2, math.inf, s.eps)
                for s in (*path, *cold)
            ]
            past.append(marks)
            return np.median(past, axis=0), max(gaps)

        past: list[list[float]] = []
        return run

    measurement = harness.measure(build, limit=600)
    (path, cold, largest), gap = measurement.answer
    ratio = 4 * largest / path
    line = [
        data,
        *(harness.seconds(value) for value in (path, cold, largest)),
        f"{gap:.0e}",
        f"{cold / path:.3g}x",
        f"{ratio:.3g}x",
    ]
    return line if ratio > 1 else [harness.bold(entry) for entry in line]


def path_table(data: list[str]) -> str:
    header = [
        "data",
        "path (s)",
        "20 cold (s)",
        "cold at .95 eps* (s)",
        "largest gap",
        "20 cold / path",
        "4 cold at .95 eps* / path",
    ]
    chosen = [name for name in ("g100x512", "g500x2000") if name in data]
    if not chosen:
        return ""
    text = (
        "`separator_path` with p = 2, q = inf and eps = 0 to .95 eps*; the path should cost less "
        "than 4 cold solves.\n\n"
    )
    return text + harness.table(header, [path_line(name) for name in chosen])


# ---- plots

PLOT_PEERS = {
    "2,inf": ["piqp dense, split", "piqp sparse, split", "clarabel, absolute"],
    "1,inf": ["HiGHS simplex, dual", "HiGHS ipm, dual", "piqp dense, split", "piqp dense, dual"],
}
PLOT_SIZES = (50, 100, 200, 500, 1000, 2000, 5000, 10000)


def plots(sizes: list[int], limit: float) -> None:
    """Time against n at d = 500 and against d at n = 500; a peer that ran into the limit is not
    asked for larger sizes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cases = [case for case in CASES if case.key in PLOT_PEERS]
    figure, axes = plt.subplots(len(cases), 2, figsize=(8, 6), sharey=True, layout="constrained")
    lines = []
    for case, pair in zip(cases, axes, strict=True):
        for axis, pattern, unknown in zip(pair, ("s{}x500", "s500x{}"), ("n", "d"), strict=True):
            asked, ours, peer = list(PLOT_PEERS[case.key]), [], []
            for size in sizes:
                rows = run_cell(case, pattern.format(size), limit, only=asked)
                asked = [row.solver for row in rows[1:] if row.runs]
                best = fastest(rows)
                ours.append(rows[0].seconds)
                peer.append(best.seconds if best else math.nan)
                lines.append(
                    [
                        case.key,
                        rows[0].data,
                        rows[0].seconds,
                        rows[0].gap,
                        best.solver if best else "",
                        peer[-1],
                    ]
                )
                signed_rows.cache_clear()
            axis.loglog(sizes, ours, "o-", label="sklearn_robust")
            axis.loglog(sizes, peer, "s--", label="fastest peer")
            axis.set(
                xlabel=f"{unknown}  ({'d' if unknown == 'n' else 'n'} = 500)",
                ylabel="seconds",
                title=case.name,
            )
            axis.grid(alpha=0.3)
            axis.legend()
    harness.RESULTS.mkdir(exist_ok=True)
    figure.savefig(harness.RESULTS / "separators_scaling.png", dpi=100)
    harness.write_csv(
        "separators_scaling.csv", ["case", "data", "ours", "gap", "peer", "peer_seconds"], lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", nargs="+", default=list(DATA), help="data sets; others in the form gNxD or sNxD"
    )
    parser.add_argument(
        "--case", nargs="+", default=[case.key for case in CASES], help="such as 2,inf"
    )
    parser.add_argument("--peers", nargs="+", help="such as 'piqp dense, split'; all if not given")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a run")
    parser.add_argument(
        "--plots",
        nargs="*",
        type=int,
        metavar="SIZE",
        help="instead of tables: n and d at these sizes",
    )
    parser.add_argument("--name", default="separators", help="of the results")
    options = parser.parse_args()
    if options.plots is not None:
        plots(options.plots or list(PLOT_SIZES), options.limit)
        return
    cells = []
    for data in options.data:
        for case in CASES:
            if case.key in options.case and (data in case.targets or data not in DATA):
                rows = run_cell(case, data, options.limit, options.peers)
                cells.append((case, rows))
                print(" | ".join(cell_line(case, rows, options.limit)), flush=True)
        signed_rows.cache_clear()
    cells.sort(key=lambda cell: CASES.index(cell[0]))
    harness.write(f"{options.name}.md", report(cells, path_table(options.data), options.limit))
    harness.write_csv(
        f"{options.name}.csv",
        list(Row.__dataclass_fields__),
        [list(vars(row).values()) for _, rows in cells for row in rows],
    )


if __name__ == "__main__":
    main()
