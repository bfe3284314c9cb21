"""The room's public names, and what using them costs."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from sklearn_robust import attacks


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
def test_the_closed_form_needs_no_torch():
    assert (
        run("import sys, sklearn_robust.attacks.linear; print('torch' in sys.modules)") == "False\n"
    )


def test_a_missing_torch_is_explained():
    code = """
import sys
sys.modules["torch"] = None
try:
    from sklearn_robust.attacks import pgd
except ImportError as error:
    print(error)
"""
    assert run(code) == 'pgd needs PyTorch. Install it with: pip install "sklearn-robust[torch]"\n'


def test_public_names_resolve_and_unknown_ones_do_not():
    for name in attacks.__all__:
        assert getattr(attacks, name).__name__ == name
    assert set(attacks.__all__) <= set(dir(attacks))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = attacks.no_such_name


@pytest.mark.parametrize("attack", [attacks.apgd, attacks.pgd, attacks.square])
@pytest.mark.parametrize(
    ("name", "bad"),
    [("eps", torch.full((3,), 0.1)), ("eps", -1.0), ("batch_size", 0), ("batch_size", 1.5)],
)
def test_all_attacks_check_what_they_share(attack, name, bad):
    with pytest.raises(ValueError, match=f"{name} must be"):
        attack(
            torch.nn.Linear(2, 1),
            np.zeros((3, 2), np.float32),
            [0, 1, 1],
            **{"eps": 0.1, name: bad},
        )
