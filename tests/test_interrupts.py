"""Ctrl-C during the solvers of compiled libraries."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from sklearn_robust._interrupts import interruptible

PATIENCE = 20  # seconds; alone on a machine it takes milliseconds

INTERRUPTED = """
import os, signal, threading, time
import numpy as np
import torch
from sklearn_robust.separators._max_margin_form import MaxMarginForm
from sklearn_robust.separators.cone_program import solve_cone_program
from sklearn_robust.separators.linear_program import solve_linear_program
from sklearn_robust.verification import certified_margins

rng = np.random.default_rng(0)
torch.manual_seed(0)
Z = rng.normal(size=(1500, 1000))
network = torch.nn.Sequential(torch.nn.Linear(60, 300), torch.nn.ReLU(), torch.nn.Linear(300, 1))
X, y = rng.uniform(size=(1, 60)), [1]
solvers = {
    "HiGHS, linear": lambda: solve_linear_program(MaxMarginForm(Z, None, 1.0, 1.0, 0.0)),
    "HiGHS, mixed-integer": lambda: certified_margins(network, X, y, eps=0.5, method="exact",
    time_limit=1e6), "clarabel": lambda: solve_cone_program(MaxMarginForm(Z, None, 1.5, 1.5, 0.0)),
}


def press_ctrl_c():
    global pressed
    pressed = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)


for name, solve in solvers.items():
    timer = threading.Timer(0.4, press_ctrl_c)
    timer.start()
    try:
        solve()
    except KeyboardInterrupt:
        print(name, "heard it" if time.monotonic() - pressed < PATIENCE else "was slow", flush=True)
    else:
        timer.cancel()
        print(name, "ended", flush=True)
os._exit(0)  # without waiting for the solvers that run on to their limits
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the test sends SIGINT to itself")
def test_ctrl_c_is_heard_during_library_solvers():
    code = INTERRUPTED.replace("PATIENCE", str(PATIENCE))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        f"{name} heard it" for name in ("HiGHS, linear", "HiGHS, mixed-integer", "clarabel")
    ]


def test_results_errors_and_settings_pass_through():
    threads = []

    def compute(abandoned):
        threads.append(threading.current_thread())
        assert not abandoned.is_set()
        return np.array([1.0]) / 0

    with np.errstate(divide="ignore"):
        assert interruptible(compute) == np.inf
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        interruptible(compute)
    assert threading.main_thread() not in threads


def test_solvers_hear_that_nobody_waits(monkeypatch):
    interrupted = threading.Event()

    def compute(abandoned):
        if abandoned.wait(PATIENCE):
            interrupted.set()

    def pressed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("sklearn_robust._interrupts.wait", pressed)
    with pytest.raises(KeyboardInterrupt):
        interruptible(compute)
    assert interrupted.wait(PATIENCE)


def test_other_threads_hear_no_ctrl_c_and_need_no_thread():
    found = []
    caller = threading.Thread(
        target=lambda: found.append(interruptible(lambda _: threading.current_thread()))
    )
    caller.start()
    caller.join()
    assert found == [caller]


def test_without_threads_the_caller_computes(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert interruptible(lambda _: threading.current_thread()) is threading.main_thread()
