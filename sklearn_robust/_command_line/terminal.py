"""Progress and tables on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any


class Progress:
    """One line on standard error: what runs now, how far it is, and the time since the start."""

    def __init__(self, *, silent: bool) -> None:
        self.silent = silent
        self.started = time.perf_counter()

    def __call__(self, steps: list[Any], label: str) -> Iterator[Any]:
        for i, step in enumerate(steps):
            if not self.silent:
                line = (
                    f"[{i + 1}/{len(steps)}] {label} ({time.perf_counter() - self.started:.0f} s)"
                )
                print(
                    f"\r{line:<78}" if sys.stderr.isatty() else line,
                    end="" if sys.stderr.isatty() else "\n",
                    file=sys.stderr,
                )
                sys.stderr.flush()
            yield step
        self.clear()

    def clear(self) -> None:
        if not self.silent and sys.stderr.isatty():
            print(f"\r{'':<78}\r", end="", file=sys.stderr)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their head; the first two columns are text, the others numbers."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, tuple("-" * width for width in widths), *rows):
        print(
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
