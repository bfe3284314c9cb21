"""Minimum-norm robust separators as programs for general solvers, each written in every form that
was seen to suit one.

Z are the signed rows. Forms of the same separator, up to scale:

- split: w = u - v with u, v >= 0; no coordinate has both at a solution;
- absolute: w free and t >= |w|;
- direct: w free, for norms that need no more;
- dual: one variable a sample (and w beside it where the objective is quadratic);
- Gram, reduced: for p = 2 and eps = 0, the dual on Z Z^T, and w restricted to the span of the rows;
  there are also non-negative least squares and support vector machines of nearly infinite cost.

For p = inf the margin is maximised over the unit box; otherwise the norm is minimised at margin 1.
The matrices are made before the clock starts, in the solver's own layout; only what replaces part
of a solver's work (Gram matrix, QR) is timed. Solvers keep their default tolerances, except SCS,
whose defaults are far from 1e-6.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

MAX_DENSE_VARIABLES = 6_000  # above, a dense quadratic term does not pay or fit
SVM_COST = 1e6

Solve = Callable[[], np.ndarray]


class TooLarge(Exception):
    """The form does not suit this size."""


@dataclass
class Program:
    """Minimise 1/2 |x[square]|^2 + cost.x with low <= G x <= high, lower <= x <= upper and
    x[radius] >= |x[ball]|."""

    cost: np.ndarray
    G: Any
    low: np.ndarray
    high: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    coef: Callable[[np.ndarray], np.ndarray]  # of the solution, or of the rows' multipliers
    square: slice | None = None
    ball: slice | None = None
    radius: int = -1
    from_multipliers: bool = False


def split(Z: np.ndarray, p: float, q: float, eps: float) -> Program:
    n, d = Z.shape
    penalty = eps if q == math.inf else 0.0  # |w|_1 is linear in u and v
    blocks = [Z - penalty, -Z - penalty]
    cost = np.full(2 * d, 1.0 if p == 1 else 0.0)
    upper = np.full(2 * d, 1.0 if p == math.inf else math.inf)
    extra = {}
    if q == 2 and eps > 0:
        blocks.append(np.full((n, 1), -eps))
        cost, upper, extra = (
            np.append(cost, 0.0),
            np.append(upper, math.inf),
            {"ball": slice(0, 2 * d), "radius": 2 * d},
        )
    if p == math.inf:
        blocks.append(-np.ones((n, 1)))
        cost, upper = np.append(cost, -1.0), np.append(upper, math.inf)
    return Program(
        cost,
        np.hstack(blocks),
        np.full(n, 0.0 if p == math.inf else 1.0),
        np.full(n, math.inf),
        np.zeros(len(cost)),
        upper,
        lambda x: x[:d] - x[d : 2 * d],
        square=slice(0, 2 * d) if p == 2 else None,
        **extra,
    )


def absolute(Z: np.ndarray, p: float, q: float, eps: float) -> Program:
    n, d = Z.shape
    penalty = eps if q == math.inf else 0.0
    one_more = p == math.inf or (q == 2 and eps > 0)  # the margin, or |w|_2
    last = np.full((n, int(one_more)), -1.0 if p == math.inf else -eps)
    identity = sparse.eye_array(d)
    none = sparse.csr_array((d, int(one_more)))
    G = sparse.vstack(
        [
            sparse.csr_array(np.hstack([Z, np.full((n, d), -penalty), last])),
            sparse.hstack([-identity, identity, none]),
            sparse.hstack([identity, identity, none]),
        ]
    )
    cost = np.concatenate(
        [
            np.zeros(d),
            np.full(d, 1.0 if p == 1 else 0.0),
            np.full(int(one_more), -1.0 if p == math.inf else 0.0),
        ]
    )
    return Program(
        cost,
        G,
        np.concatenate([np.full(n, 0.0 if p == math.inf else 1.0), np.zeros(2 * d)]),
        np.full(n + 2 * d, math.inf),
        np.full(len(cost), -math.inf),
        np.concatenate(
            [
                np.full(d, math.inf),
                np.full(d, 1.0 if p == math.inf else math.inf),
                np.full(int(one_more), math.inf),
            ]
        ),
        lambda x: x[:d],
        square=slice(0, d) if p == 2 else None,
        ball=slice(0, d) if q == 2 and eps > 0 else None,
        radius=2 * d if q == 2 and eps > 0 else -1,
    )


def direct(Z: np.ndarray, p: float, q: float, eps: float) -> Program:
    """p = 2; eps = 0, or q = 1 with s >= |w_j|."""
    n, d = Z.shape
    if eps == 0:
        free = np.full(d, math.inf)
        return Program(
            np.zeros(d),
            Z,
            np.ones(n),
            np.full(n, math.inf),
            -free,
            free,
            lambda x: x,
            square=slice(0, d),
        )
    one, free = np.ones((d, 1)), np.full(d + 1, math.inf)
    G = np.block([[Z, np.full((n, 1), -eps)], [-np.eye(d), one], [np.eye(d), one]])
    low = np.concatenate([np.ones(n), np.zeros(2 * d)])
    return Program(
        np.zeros(d + 1),
        G,
        low,
        np.full(n + 2 * d, math.inf),
        -free,
        free,
        lambda x: x[:d],
        square=slice(0, d),
    )


def dual(Z: np.ndarray, p: float, q: float, eps: float) -> Program:
    n, d = Z.shape
    if p == 1:  # maximise sum l with |Z^T l| <= 1
        return Program(
            -np.ones(n),
            np.ascontiguousarray(Z.T),
            -np.ones(d),
            np.ones(d),
            np.zeros(n),
            np.full(n, math.inf),
            lambda multipliers: -multipliers,
            from_multipliers=True,
        )
    # p = 2: minimise 1/2 |w|^2 - sum l with |Z^T l - w| <= eps sum l
    minus = -sparse.eye_array(d)
    if eps == 0:
        G, low, high = sparse.hstack([sparse.csr_array(Z.T), minus]), np.zeros(d), np.zeros(d)
    else:
        G = sparse.vstack(
            [sparse.hstack([sparse.csr_array(Z.T + sign * eps), minus]) for sign in (-1, 1)]
        )
        low = np.concatenate([np.full(d, -math.inf), np.zeros(d)])
        high = np.concatenate([np.zeros(d), np.full(d, math.inf)])
    return Program(
        np.concatenate([-np.ones(n), np.zeros(d)]),
        G,
        low,
        high,
        np.concatenate([np.zeros(n), np.full(d, -math.inf)]),
        np.full(n + d, math.inf),
        lambda x: x[n:],
        square=slice(n, n + d),
    )


# ---- solvers: each takes a program and returns what is to be timed


def highs(program: Program, method: str) -> Solve:
    """Without presolve and crossover, which only cost time on dense rows; `linprog` runs HiGHS with
    both."""
    import highspy

    G = sparse.csc_array(program.G)
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = G.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = program.cost, program.lower, program.upper
    lp.row_lower_, lp.row_upper_ = program.low, program.high
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = G.indptr, G.indices, G.data

    options = {
        "output_flag": False,
        "threads": 1,
        "solver": method,
        "presolve": "off",
        "run_crossover": "off",
    }

    def solve() -> np.ndarray:
        model = highspy.Highs()
        for option, value in options.items():
            assert model.setOptionValue(option, value) == highspy.HighsStatus.kOk, option
        model.passModel(lp)
        model.run()
        solution = model.getSolution()
        return program.coef(
            np.array(solution.row_dual if program.from_multipliers else solution.col_value)
        )

    return solve


def linprog(program: Program) -> Solve:
    from scipy.optimize import linprog as scipy_linprog

    assert np.isinf(program.high).all()
    A, b, bounds = -program.G, -program.low, np.stack([program.lower, program.upper], axis=1)
    return lambda: program.coef(
        scipy_linprog(program.cost, A_ub=A, b_ub=b, bounds=bounds, method="highs").x
    )


def piqp(program: Program, *, dense: bool) -> Solve:
    import piqp as package

    size = len(program.cost)
    if dense and size > MAX_DENSE_VARIABLES:
        raise TooLarge(f"{size} dense variables")
    diagonal = np.zeros(size)
    diagonal[program.square or slice(0)] = 1.0
    G = program.G.toarray() if dense and sparse.issparse(program.G) else program.G
    if dense:
        P, G = np.asfortranarray(np.diag(diagonal)), np.asfortranarray(G)
    else:
        P, G = sparse.csc_matrix(sparse.diags_array(diagonal)), sparse.csc_matrix(G)

    def solve() -> np.ndarray:
        solver = package.DenseSolver() if dense else package.SparseSolver()
        solver.setup(
            P,
            program.cost,
            G=G,
            h_l=program.low,
            h_u=program.high,
            x_l=program.lower,
            x_u=program.upper,
        )
        solver.solve()
        result = solver.result
        return program.coef(
            np.array(result.z_l - result.z_u if program.from_multipliers else result.x)
        )

    return solve


def _conic(program: Program) -> tuple[Any, np.ndarray, tuple[int, int, int]]:
    """A x + slack = b with slacks zero, then >= 0, then in one second-order cone; and their
    numbers."""
    G, identity = sparse.csr_array(program.G), sparse.eye_array(len(program.cost), format="csr")
    equal = program.low == program.high
    parts = [(G[equal], program.high[equal])]
    below, above = ~equal & np.isfinite(program.high), ~equal & np.isfinite(program.low)
    small, large = np.isfinite(program.upper), np.isfinite(program.lower)
    parts += [(G[below], program.high[below]), (-G[above], -program.low[above])]
    parts += [(identity[small], program.upper[small]), (-identity[large], -program.lower[large])]
    n_positive = int(sum(len(b) for _, b in parts[1:]))
    n_cone = 0
    if program.ball is not None:
        members = np.r_[program.radius, np.arange(len(program.cost))[program.ball]]
        parts.append((-identity[members], np.zeros(len(members))))
        n_cone = len(members)
    A = sparse.csc_matrix(sparse.vstack([A for A, _ in parts]))
    return A, np.concatenate([b for _, b in parts]), (int(equal.sum()), n_positive, n_cone)


def _quadratic(program: Program) -> Any:
    diagonal = np.zeros(len(program.cost))
    diagonal[program.square or slice(0)] = 1.0
    return sparse.csc_matrix(sparse.diags_array(diagonal))


def _coef_of(program: Program, x: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """For the dual form, rows are bounded from both sides: all upper bounds come first, then all
    lower ones."""
    if not program.from_multipliers:
        return program.coef(np.array(x))
    rows = len(program.low)
    return program.coef(np.array(multipliers[rows : 2 * rows]) - np.array(multipliers[:rows]))


def clarabel(program: Program) -> Solve:
    import clarabel as package

    A, b, (zero, positive, cone) = _conic(program)
    P = _quadratic(program)
    cones = [package.ZeroConeT(zero)] * (zero > 0) + [package.NonnegativeConeT(positive)]
    cones += [package.SecondOrderConeT(cone)] * (cone > 0)
    settings = package.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1

    def solve() -> np.ndarray:
        solution = package.DefaultSolver(P, program.cost, A, b, cones, settings).solve()
        return _coef_of(program, solution.x, solution.z)

    return solve


def scs(program: Program) -> Solve:
    import scs as package

    A, b, (zero, positive, cone) = _conic(program)
    data = {"P": _quadratic(program), "A": A, "b": b, "c": program.cost}
    cones = {"z": zero, "l": positive, "q": [cone] if cone else []}

    def solve() -> np.ndarray:
        solver = package.SCS(
            data, cones, eps_abs=1e-8, eps_rel=1e-8, max_iters=10**7, verbose=False
        )
        solution = solver.solve()
        return _coef_of(program, solution["x"], solution["y"])

    return solve


def ecos(program: Program) -> Solve:
    """A quadratic objective becomes the norm, bounded by one variable more."""
    import ecos as package

    A, b, (zero, positive, cone) = _conic(program)
    cost, cones = program.cost, [cone] if cone else []
    if program.square is not None:
        assert not cost.any()
        members = np.arange(len(cost))[program.square]
        rows = sparse.eye_array(len(cost) + 1, format="csr")[np.r_[len(cost), members]]
        A = sparse.vstack([sparse.hstack([A, sparse.csr_array((A.shape[0], 1))]), -rows])
        b, cost, cones = (
            np.append(b, np.zeros(len(members) + 1)),
            np.append(cost, 1.0),
            [*cones, len(members) + 1],
        )
    A = sparse.csr_matrix(A)
    equalities = {"A": sparse.csc_matrix(A[:zero]), "b": b[:zero]} if zero else {}
    G, h = sparse.csc_matrix(A[zero:]), b[zero:]

    def solve() -> np.ndarray:
        solution = package.solve(
            cost, G, h, {"l": positive, "q": cones}, **equalities, verbose=False
        )
        return _coef_of(program, solution["x"][: len(program.cost)], solution["z"])

    return solve


# ---- p = 2 and eps = 0 only


def piqp_gram(Z: np.ndarray) -> Solve:
    """The dual: minimise 1/2 |Z^T l|^2 - sum l over l >= 0."""
    import piqp as package

    n = len(Z)
    if n > MAX_DENSE_VARIABLES:
        raise TooLarge(f"{n} dense variables")

    def solve() -> np.ndarray:
        solver = package.DenseSolver()
        solver.setup(np.asfortranarray(Z @ Z.T), -np.ones(n), x_l=np.zeros(n))
        solver.solve()
        return np.array(solver.result.x) @ Z

    return solve


def piqp_reduced(Z: np.ndarray) -> Solve:
    """w in the span of the rows, from a QR decomposition of Z^T."""
    import piqp as package
    from scipy.linalg import qr

    n, d = Z.shape
    if n > d:
        raise TooLarge("the rows span everything")

    def solve() -> np.ndarray:
        Q, R = qr(Z.T, mode="economic")
        solver = package.DenseSolver()
        solver.setup(
            np.asfortranarray(np.eye(n)), np.zeros(n), G=np.asfortranarray(R.T), h_l=np.ones(n)
        )
        solver.solve()
        return Q @ np.array(solver.result.x)

    return solve


def labelled(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples of two classes that have these signed rows."""
    y = np.where(np.arange(len(Z)) % 2 == 0, 1.0, -1.0)
    return y[:, None] * Z, y


def linear_svc(Z: np.ndarray) -> Solve:
    from sklearn.svm import LinearSVC

    X, y = labelled(Z)
    model = LinearSVC(
        loss="hinge", C=SVM_COST, fit_intercept=False, tol=1e-10, max_iter=10**7, random_state=0
    )
    return lambda: model.fit(X, y).coef_[0]


def svc(Z: np.ndarray) -> Solve:
    from sklearn.svm import SVC

    X, y = labelled(Z)
    model = SVC(kernel="linear", C=SVM_COST, tol=1e-8, cache_size=2000)

    def solve() -> np.ndarray:
        # without intercept: each sample beside its mirror image, which leaves no room for one
        return model.fit(np.vstack([X, -X]), np.concatenate([y, -y])).coef_[0]

    return solve


def nnls(Z: np.ndarray) -> Solve:
    """The dual as least squares: minimise |Z^T l|^2 + (sum l - 1)^2 over l >= 0."""
    from scipy.optimize import nnls as scipy_nnls

    A, b = np.vstack([Z.T, np.ones(len(Z))]), np.append(np.zeros(Z.shape[1]), 1.0)
    return lambda: scipy_nnls(A, b, maxiter=10**6)[0] @ Z


_FORMS = {"split": split, "absolute": absolute, "direct": direct, "dual": dual}
_SOLVERS = {
    "HiGHS simplex": partial(highs, method="simplex"),
    "HiGHS ipm": partial(highs, method="ipm"),
    "linprog": linprog,
    "piqp dense": partial(piqp, dense=True),
    "piqp sparse": partial(piqp, dense=False),
    "clarabel": clarabel,
    "ECOS": ecos,
    "SCS": scs,
}
_ALL_FORMS = {  # of a case (p, q), with eps = 0 where p and q are dual
    (2, math.inf): {
        "piqp dense": ["split", "dual"],
        "piqp sparse": ["split", "absolute", "dual"],
        "clarabel": ["split", "absolute", "dual"],
        "ECOS": ["split", "absolute"],
        "SCS": ["split"],
    },
    (1, math.inf): {
        "HiGHS simplex": ["split", "dual"],
        "HiGHS ipm": ["split", "dual"],
        "linprog": ["split"],
        "piqp dense": ["split", "dual"],
        "piqp sparse": ["split", "dual"],
        "clarabel": ["split", "absolute", "dual"],
        "ECOS": ["split", "dual"],
        "SCS": ["split"],
    },
    (2, 2): {
        "piqp dense": ["direct"],
        "piqp sparse": ["direct", "dual"],
        "clarabel": ["direct", "dual"],
        "ECOS": ["direct"],
        "SCS": ["direct"],
    },
    (math.inf, math.inf): {
        "HiGHS simplex": ["split"],
        "HiGHS ipm": ["split"],
        "linprog": ["split"],
        "piqp dense": ["split"],
        "piqp sparse": ["split"],
        "clarabel": ["split", "absolute"],
        "ECOS": ["split", "absolute"],
        "SCS": ["split"],
    },
    (1, 2): {"clarabel": ["split", "absolute"], "ECOS": ["split", "absolute"], "SCS": ["split"]},
    (2, 1): {
        "piqp dense": ["direct"],
        "piqp sparse": ["direct"],
        "clarabel": ["direct"],
        "ECOS": ["direct"],
        "SCS": ["direct"],
    },
}


def peers(p: float, q: float) -> dict[str, Callable[[np.ndarray, float], Solve]]:
    """By name, what makes a peer's solve from the signed rows and eps."""
    built: dict[str, Callable[[np.ndarray, float], Solve]] = {}
    for solver, forms in _ALL_FORMS[p, q].items():
        for form in forms:
            built[f"{solver}, {form}"] = lambda Z, eps, solver=solver, form=form: _SOLVERS[solver](
                _FORMS[form](Z, p, q, eps)
            )
    if (p, q) == (2, 2):
        built["piqp dense, Gram"] = lambda Z, eps: piqp_gram(Z)
        built["piqp dense, reduced"] = lambda Z, eps: piqp_reduced(Z)
        built["nnls"] = lambda Z, eps: nnls(Z)
        built["LinearSVC"] = lambda Z, eps: linear_svc(Z)
        built["SVC"] = lambda Z, eps: svc(Z)
    return built
