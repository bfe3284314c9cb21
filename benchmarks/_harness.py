"""What the benchmarks share: one thread, a clock with a limit, the machine in a line, and tables.

Times are CPU times of a process with one thread, which other work on the machine disturbs least;
limits are of wall time.

Import it before NumPy: BLAS reads the number of threads when it is loaded.
"""

import csv
import multiprocessing
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

RESULTS = Path(__file__).parent / "results"
_BUILD_LIMIT = 600.0  # seconds for what is not timed


def repeats(first: float) -> int:
    """How many runs to take the median of, by the time of the first."""
    return 5 if first < 1 else 3 if first < 20 else 1


@dataclass
class Measurement:
    """Times of the runs that ended, the answer of the last, and why there are no more."""

    seconds: list[float] = field(default_factory=list)
    answer: Any = None
    failure: str = ""  # "time limit", or an error's last line

    @property
    def median(self) -> float:
        return median(self.seconds) if self.seconds else float("inf")


def measure(build: Callable[[], Callable[[], Any]], limit: float = 60.0) -> Measurement:
    """Time the callable that `build` returns, in a process of its own that is ended when a run
    passes the limit.

    What `build` does (a warm-up, matrices in the solver's form) is not timed. The process is
    forked: this one should not have started threads.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(build, sender))
    process.start()
    sender.close()
    measurement = Measurement()
    patience = _BUILD_LIMIT
    try:
        while receiver.poll(patience):
            kind, value = receiver.recv()
            if kind == "seconds":
                measurement.seconds.append(value)
            elif kind == "answer":
                measurement.answer = value
            elif kind == "failure":
                measurement.failure = value
                break
            elif kind == "end":
                break
            patience = limit if kind == "start" else _BUILD_LIMIT
        else:
            measurement.failure = "time limit"
    except EOFError:
        measurement.failure = "the process died"
    finally:
        process.kill()
        process.join()
        receiver.close()
    return measurement


def _run(build: Callable[[], Callable[[], Any]], sender: Any) -> None:
    """In the child: runs, each announced and then reported."""
    try:
        run = build()
        done, wanted = 0, 1
        while done < wanted:
            sender.send(("start", None))
            start = time.process_time()
            answer = run()
            seconds = time.process_time() - start
            sender.send(("seconds", seconds))
            sender.send(("answer", answer))
            done, wanted = done + 1, max(wanted, repeats(seconds) if done == 0 else wanted)
        sender.send(("end", None))
    except Exception as error:  # the parent reports it
        sender.send(("failure", traceback.format_exception_only(error)[-1].strip().splitlines()[0]))


def machine(packages: Iterable[str]) -> str:
    """Processor, BLAS, threads and versions."""
    import numpy  # noqa: F401  BLAS is shown where it is loaded
    from threadpoolctl import threadpool_info

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    blas = [
        f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', '?')})"
        for pool in threadpool_info()
    ]
    threads = max((pool["num_threads"] for pool in threadpool_info()), default=1)
    forced = "".join(
        f", {name}={os.environ[name]}"
        for name in sorted(os.environ)
        if name.startswith("OPENBLAS_CORE")
    )
    versions = ", ".join(f"{package} {_version(package)}" for package in packages)
    return (
        f"{processor}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start; "
        f"{threads} thread(s); "
        f"{', '.join(sorted(set(blas)))}{forced}; Python {platform.python_version()}, {versions}."
    )


def _version(package: str) -> str:
    """The version of a package, also of one that is not there: its peers were not run then."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def bold(entry: str) -> str:
    """An entry of a Markdown table in bold, whatever stars are in it."""
    return "**" + entry.replace("*", r"\*") + "**"


def seconds(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def write(name: str, text: str, folder: Path = RESULTS) -> None:
    """A text among the results, whole at every moment."""
    folder.mkdir(exist_ok=True)
    part = folder / f"{name}.part"
    part.write_text(text)
    part.replace(folder / name)


def write_csv(
    name: str, header: Sequence[str], rows: Iterable[Sequence[Any]], folder: Path = RESULTS
) -> None:
    """A table among the results, for machines."""
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
