"""The theorems of the paper as experiments; every claim is checked against exact separators and
printed as numbers.

theorem_4_3     the path of steepest descent reaches the largest robust margin, for all nine (p, q)
corollary_4_5   with p = q* the direction of the separator does not depend on eps
lemma_c_4       near eps* all p have the same separator
lemma_c_2       margin and dual bound of a path enclose the largest margin from its first steps on
remark_4_4      separator and mixed-norm problem have the same value, with weight eps / gamma
proposition_4_8 gradient descent in a diagonal network reaches the l1 separator, against iterations
and init scale large_eps       coordinate descent near eps* with autograd's subgradient and with the
one of minimum norm
"""

import itertools
import math
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from linear import robust_problem
from runner import command_line, save

from sklearn_robust import (
    make_teacher_classification,
    max_margin,
    min_norm_separator,
    mixed_norm_weight,
)
from sklearn_robust.certificates import robust_margin
from sklearn_robust.losses import Exponential
from sklearn_robust.norms import LpNorm
from sklearn_robust.solvers import diagonal_descent, steepest_descent

NORMS = (1, 2, math.inf)


@dataclass(frozen=True)
class Setting:
    n_samples: int = 40
    n_features: int = 90
    n_draws: int = 1
    max_iter: int = 20_000
    wide_samples: int = 100  # of the diagonal network and of coordinate descent at large eps
    wide_features: int = 512


QUICK, FULL = Setting(), Setting(n_draws=3, max_iter=100_000)


def make(setting, out, jobs):
    """All rows of all experiments, as one tidy table, and one figure."""
    experiments = (
        theorem_4_3,
        corollary_4_5,
        lemma_c_4,
        lemma_c_2,
        remark_4_4,
        proposition_4_8,
        large_eps,
    )
    work = [(experiment, draw) for draw in range(setting.n_draws) for experiment in experiments]
    results = Parallel(n_jobs=jobs)(
        delayed(rows_of)(experiment, setting, draw) for experiment, draw in work
    )
    parts = [
        pd.DataFrame(rows).assign(experiment=experiment.__name__, draw=draw)
        for (experiment, draw), rows in zip(work, results, strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    table = table[
        ["experiment", "draw", "p", "q", "share", "variant", "iteration", "quantity", "value"]
    ]
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "theorems.csv", index=False)
    for name, part in table.groupby("experiment", sort=False):
        by = [
            column
            for column in ("p", "q", "variant", "share", "iteration")
            if part[column].notna().any()
        ]
        print(f"\n{name}: mean over {setting.n_draws} draws")
        print(
            part.groupby([*by, "quantity"], dropna=False)
            .value.mean()
            .unstack()
            .round(4)
            .to_string()
        )
    draw_figure(table, out)
    return table


def rows_of(experiment, setting, draw):
    return list(experiment(setting, draw))


def theorem_4_3(setting, draw):
    """Margin of the trained predictor over the largest one, and its cosine with the exact
    separator, at eps*/2."""
    X, y = sample(setting, draw)
    eps_star = largest_radii(X, y)
    for p, q in itertools.product(NORMS, NORMS):
        eps = 0.5 * eps_star[q]
        problem, norm = robust_problem(X, y, [eps], q), LpNorm(p)
        exact = min_norm_separator(X, y, p=p, q=q, eps=eps)
        solution = steepest_descent(
            problem, Exponential(), norm, loss_tol=0, tol=1e-3, max_iter=setting.max_iter
        )
        row = {"p": p, "q": q, "share": 0.5, "iteration": int(solution.n_iter[0])}
        yield {**row, "quantity": "margin ratio", "value": solution.margin[0] / exact.margin}
        yield {**row, "quantity": "cosine", "value": cosine(solution.coef[0], exact.coef)}


def corollary_4_5(setting, draw):
    """Cosine of the separator with that of eps = 0: one where p = q*, less where not."""
    X, y = sample(setting, draw)
    eps_star = largest_radii(X, y)
    clean = {p: min_norm_separator(X, y, p=p, q=2, eps=0.0).coef for p in NORMS}
    for p, q, share in itertools.product(NORMS, NORMS, (0.25, 0.5, 0.75, 0.95)):
        exact = min_norm_separator(X, y, p=p, q=q, eps=share * eps_star[q]).coef
        row = {
            "p": p,
            "q": q,
            "share": share,
            "variant": "p = q*" if LpNorm(q).dual.p == p else "p != q*",
        }
        yield {**row, "quantity": "cosine with eps = 0", "value": cosine(exact, clean[p])}


def lemma_c_4(setting, draw):
    """Least cosine among the separators of p = 1, 2, inf against q = inf, as eps tends to eps*."""
    X, y = sample(setting, draw)
    eps_star = max_margin(X, y, q=math.inf).margin
    for share in (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999):
        coefs = [
            min_norm_separator(X, y, p=p, q=math.inf, eps=share * eps_star).coef for p in NORMS
        ]
        least = min(cosine(a, b) for a, b in itertools.combinations(coefs, 2))
        yield {"q": math.inf, "share": share, "quantity": "least cosine among p", "value": least}


def lemma_c_2(setting, draw):
    """Margin and bound, over the largest margin, along the path of gradient descent."""
    X, y = sample(setting, draw)
    eps = 0.5 * max_margin(X, y, q=math.inf).margin
    largest = min_norm_separator(X, y, p=2, q=math.inf, eps=eps).margin
    problem = robust_problem(X, y, [eps])
    options = {"loss_tol": 0, "tol": 1e-3, "max_iter": setting.max_iter, "record_every": 10}
    history = steepest_descent(problem, Exponential(), LpNorm(2), **options).history
    shown = np.unique(np.geomspace(1, len(history["iteration"]), 6).astype(int)) - 1
    for column, quantity in (("margin", "margin / largest"), ("margin_bound", "bound / largest")):
        for iteration, value in zip(
            history["iteration"][shown], history[column][shown, 0], strict=True
        ):
            yield {
                "p": 2,
                "q": math.inf,
                "share": 0.5,
                "iteration": iteration,
                "quantity": quantity,
                "value": value / largest,
            }


def remark_4_4(setting, draw):
    """Value of the mixed-norm problem at the separator, and what its dual weights prove; both times
    gamma, so 1 if exact."""
    X, y = sample(setting, draw)
    eps_star = largest_radii(X, y)
    for p, q, share in itertools.product(NORMS, NORMS, (0.25, 0.5, 0.9)):
        eps = share * eps_star[q]
        weight = mixed_norm_weight(X, y, p=p, q=q, eps=eps)
        exact = min_norm_separator(X, y, p=p, q=q, eps=eps)
        w = exact.coef / np.min(y * (X @ exact.coef))  # clean margins of at least 1
        value = LpNorm(p).value(w) + weight * LpNorm(q).dual.value(w)
        # weights c a, a of sum 1, are dual feasible if the p*-distance of c Z^T a to the q-ball of
        # radius lambda is at most 1
        weighted_sum = (exact.dual_coef * y) @ X
        c = 1 / LpNorm(p).dual.value(
            LpNorm(q).residual(weighted_sum, weight * exact.margin, LpNorm(p).dual)
        )
        row = {"p": p, "q": q, "share": share}
        yield {**row, "quantity": "lambda", "value": weight}
        yield {**row, "quantity": "value times gamma", "value": value * exact.margin}
        yield {**row, "quantity": "dual value times gamma", "value": c * exact.margin}


def proposition_4_8(setting, draw):
    """Margin ratio and cosine of the diagonal network with the l1 separator, against iterations and
    init scale."""
    X, y = wide_sample(setting, draw)
    eps = 0.5 * max_margin(X, y, q=math.inf).margin
    exact = min_norm_separator(X, y, p=1, q=math.inf, eps=eps)
    problem = robust_problem(X, y, [eps])
    for alpha in (1e-1, 1e-3, 1e-5):
        for max_iter in (setting.max_iter // 100, setting.max_iter // 10, setting.max_iter):
            solution = diagonal_descent(
                problem, Exponential(), init_scale=alpha, loss_tol=0, tol=1e-4, max_iter=max_iter
            )
            row = {
                "p": 1,
                "q": math.inf,
                "share": 0.5,
                "variant": f"init {alpha:g}",
                "iteration": max_iter,
            }
            yield {**row, "quantity": "margin ratio", "value": solution.margin[0] / exact.margin}
            yield {**row, "quantity": "cosine", "value": cosine(solution.coef[0], exact.coef)}


def large_eps(setting, draw):
    """Margin ratio and active coordinates of coordinate descent, with two subgradients at w_j =
    0."""
    X, y = wide_sample(setting, draw)
    eps_star = max_margin(X, y, q=math.inf).margin
    for share in (0.5, 0.95):
        problem = robust_problem(X, y, [share * eps_star])
        largest = min_norm_separator(X, y, p=1, q=math.inf, eps=share * eps_star).margin
        for max_iter in (setting.max_iter // 100, setting.max_iter // 10, setting.max_iter):
            options = {"loss_tol": 0, "tol": 1e-4, "max_iter": max_iter}
            coefs = {
                "autograd": autograd_descent(problem, max_iter),
                "minimum norm": steepest_descent(
                    problem, Exponential(), LpNorm(1), step_size="paper", **options
                ).coef,
                "minimum norm, adaptive step": steepest_descent(
                    problem, Exponential(), LpNorm(1), **options
                ).coef,
            }
            for variant, coef in coefs.items():
                row = {
                    "p": 1,
                    "q": math.inf,
                    "share": share,
                    "variant": variant,
                    "iteration": max_iter,
                }
                ratio = robust_margin(problem, LpNorm(1), coef, np.zeros(1))[0] / largest
                yield {**row, "quantity": "margin ratio", "value": ratio}
                yield {**row, "quantity": "active coordinates", "value": np.count_nonzero(coef)}


def autograd_descent(problem, max_iter):
    """Coordinate descent as automatic differentiation gives it: the derivative of |w_j| at zero is
    zero."""
    loss, coef = Exponential(), np.zeros((1, problem.n_features))
    eps = problem.radius[0]
    step = 1 / (np.abs(problem.X).max() + eps) ** 2
    for _ in range(max_iter):
        now = problem.evaluate(loss, coef)
        gradient = eps * np.sign(coef) - problem.weighted_sum(now.weights)
        largest = np.abs(gradient).argmax()
        coef[0, largest] -= step * gradient[0, largest]
    return coef


def largest_radii(X, y):
    """eps* by q."""
    return {q: max_margin(X, y, q=q).margin for q in NORMS}


def sample(setting, draw):
    return make_teacher_classification(setting.n_samples, setting.n_features, random_state=draw)


def wide_sample(setting, draw):
    return sample(
        replace(setting, n_samples=setting.wide_samples, n_features=setting.wide_features), draw
    )


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def draw_figure(table, out):
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    near, mixed, network, large = axes.flat

    part = table[table.experiment == "lemma_c_4"].groupby("share").value.mean()
    near.semilogx(1 - part.index, part, marker="o")
    near.set(title="Lemma C.4: least cosine among p = 1, 2, inf", xlabel="1 - eps / eps*")

    part = table[
        (table.experiment == "remark_4_4") & (table.quantity == "lambda") & np.isinf(table.q)
    ]
    for p, values in part.groupby("p"):
        mean = values.groupby("share").value.mean()
        mixed.semilogy(mean.index, mean, marker="o", label=f"p = {p:g}")
    mixed.set(title="Remark 4.4: lambda(eps) of the mixed norm, q = inf", xlabel="eps / eps*")

    part = table[(table.experiment == "proposition_4_8") & (table.quantity == "margin ratio")]
    for variant, values in part.groupby("variant"):
        mean = values.groupby("iteration").value.mean()
        network.semilogx(mean.index, mean, marker="o", label=variant)
    network.set(
        title="Proposition 4.8: l1 margin of the diagonal network", xlabel="iterations", ylim=(0, 1)
    )

    part = table[(table.experiment == "large_eps") & (table.quantity == "active coordinates")]
    for (variant, share), values in part.groupby(["variant", "share"]):
        mean = values.groupby("iteration").value.mean()
        large.semilogx(mean.index, mean, marker="o", label=f"{variant}, eps = {share:g} eps*")
    # room for the legend
    large.set(title="Coordinate descent: active coordinates", xlabel="iterations", ylim=(0, 500))
    for ax in (mixed, network, large):
        ax.legend(fontsize=8)
    save(figure, out, "theorems")


if __name__ == "__main__":
    command_line(__doc__, make, quick=QUICK, full=FULL)
