"""Settings that every program that draws makes."""

import subprocess
import sys

REPEATABLE = """
import sys, torch
from scm.generation.trained import repeatable

repeatable()
warned = torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
print(warned, torch.utils.deterministic.fill_uninitialized_memory, "torch._dynamo" in sys.modules)
"""


def test_results_are_repeatable_without_torchs_compiler():
    """Its import takes as long as torch's own."""
    done = subprocess.run([sys.executable, "-c", REPEATABLE], capture_output=True, text=True, check=True)
    assert done.stdout == "True False False\n"
