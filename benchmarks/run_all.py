"""Run every benchmark, one after another; their results go to `results/`.

env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/run_all.py
"""

import subprocess
import sys
import time
from pathlib import Path

import _harness  # noqa: F401  one thread, for the scripts too

HERE = Path(__file__).parent
# further runs of a script, with these options
EXTRA = {"separators.py": [["--plots", "--limit", "20"]]}


def main() -> None:
    scripts = [
        path
        for path in sorted(HERE.glob("*.py"))
        if not path.name.startswith("_") and path.name != Path(__file__).name
    ]
    failed = []
    for script in scripts:
        for options in [[], *EXTRA.get(script.name, [])]:
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
