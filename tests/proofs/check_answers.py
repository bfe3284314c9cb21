"""Run tests, and check a certificate of every separator and every fit that they make.

    python tests/proofs/check_answers.py tests/separators tests/linear_model [options of pytest]

Each answer of a solver, and each fitted estimator with a certificate, is written as a certificate
and read by `sklearn_robust.check` as soon as it is there. At the end come the numbers of those that
are VALID, of those that are refused, by their sentence, and each that is INVALID or fails; status 1
where there is one of these.
"""

import collections
import dataclasses
import functools
import math
import sys
import warnings

import numpy as np
import pytest
from scipy import sparse

from sklearn_robust import MinNormRobustClassifier, RobustDiagonalNet, RobustLinearClassifier
from sklearn_robust.proofs import CertificateError
from sklearn_robust.rows import BlockRows
from sklearn_robust.separators import Separator

MOST_ENTRIES = 30_000  # of the data; exact arithmetic on more takes seconds


class CheckAnswers:
    """The plugin: wraps what makes answers, and counts."""

    def __init__(self):
        self.counts, self.bad, self.test = collections.Counter(), [], ""

    def pytest_configure(self, config):
        """Wrap the solvers' answers and the estimators' fits."""
        on, check = Separator.on, self.check

        @functools.wraps(on)
        def with_check(separator, X, y, *given, **named):
            found = on(separator, X, y, *given, **named)
            check(X, y, lambda: dataclasses.replace(found).certificate)
            return found

        Separator.on = with_check
        for estimator in (RobustLinearClassifier, MinNormRobustClassifier, RobustDiagonalNet):
            self.wrap(estimator)

    def wrap(self, estimator):
        """Check each fit of an estimator, on a twin that keeps its data."""
        fit, check = estimator.fit, self.check

        @functools.wraps(fit)
        def with_check(model, *given, **named):
            found = fit(model, *given, **named)
            if "_training" in vars(model):
                twin = object.__new__(type(model))
                vars(twin).update(vars(model))
                X, y, *_ = model._training
                check(X, y, lambda: twin.certificate_)
            return found

        estimator.fit = with_check

    def pytest_runtest_setup(self, item):
        """Remember the test."""
        self.test = item.nodeid

    def check(self, X, y, make):
        """Make a certificate, check it, and count what came of it."""
        shape = X.shape if isinstance(X, BlockRows) or sparse.issparse(X) else np.shape(X)
        if math.prod(shape) > MOST_ENTRIES:
            self.counts["not checked: large"] += 1
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                certificate = make()
            except CertificateError as error:
                self.counts["refused: " + " ".join(str(error).split())[:160]] += 1
                return
            except Exception as error:  # what the library should have refused by a sentence
                self.bad.append((self.test, "not made", f"{type(error).__name__}: {error}"))
                return
            try:
                certificate.check(X, y)
                self.counts[f"VALID {certificate.kind}"] += 1
            except Exception as error:
                self.bad.append((self.test, "not valid", f"{type(error).__name__}: {error}"))

    def pytest_terminal_summary(self, terminalreporter):
        """The numbers, and what is wrong."""
        for line, count in sorted(self.counts.items(), key=lambda of: -of[1]):
            terminalreporter.write_line(f"{count:7d} {line}")
        for of in self.bad:
            terminalreporter.write_line("BAD " + " | ".join(of)[:400])


def main(arguments):
    plugin = CheckAnswers()
    status = pytest.main(["-n", "0", "-q", *arguments], plugins=[plugin])
    return int(bool(plugin.bad) or status not in (0, 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
