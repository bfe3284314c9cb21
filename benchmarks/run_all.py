"""Run every benchmark, one after another; their results go to `results/`, and the summary of the
races comes last.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/run_all.py

With `--check` nothing is written: `quick.py` compares a choice of cells with the committed ratios
and prints what became slower.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import _harness  # noqa: F401  one thread, for the scripts too

HERE = Path(__file__).parent
# the runs of a script, by their options, where they are not one without any
RUNS = {"separators.py": [[], ["--plots", "--limit", "20"]], "quick.py": [["--write"]]}
LAST = "summary.py"  # it reads what the others write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed ratios")
    if parser.parse_args().check:
        sys.exit(subprocess.run([sys.executable, str(HERE / "quick.py")]).returncode)
    scripts = [
        path
        for path in sorted(HERE.glob("*.py"))
        if not path.name.startswith("_") and path.name not in (Path(__file__).name, LAST)
    ]
    scripts.append(HERE / LAST)
    failed = []
    for script in scripts:
        for options in RUNS.get(script.name, [[]]):
            name = " ".join([script.name, *options])
            print(f"==== {name}", flush=True)
            start = time.perf_counter()
            if subprocess.run([sys.executable, str(script), *options]).returncode != 0:
                failed.append(name)
            print(f"==== {name}: {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
