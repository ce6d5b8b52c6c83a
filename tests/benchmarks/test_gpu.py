"""benchmarks/gpu.py and correctness.py on the CPU, with a tiny network."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import correctness, gpu
from benchmarks.step_cost import preset_settings
from scm.errors import UserError
from scm.generation.trained import repeatable

ROOT = Path(__file__).parents[2]
QUICK = ["steps", "parts", "checkpointing", "attention", "sampler"]
WITHOUT = """
import sys
third = "dvc jinja2 kornia mlflow PIL pyarrow pydantic ruamel safetensors scipy sklearn tabulate webdataset yaml"
sys.modules.update(dict.fromkeys(third.split()))
from benchmarks import gpu
gpu.main()
"""


def test_its_sections_run_with_torch_and_numpy_alone():
    command = [sys.executable, "-c", WITHOUT, "--device", "cpu", "--small", "--precision", "fp32", "--minutes", "9"]
    done = subprocess.run([*command, "--sections", *QUICK], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line[3:] for line in done.stdout.splitlines() if line.startswith("## ")] == QUICK
    assert "| small | scd | jvp |" in done.stdout and "All sections are complete." in done.stdout


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_steps_have_the_eager_ones_gradients(monkeypatch):
    """Ours alone: the usual ways take two minutes to trace."""
    monkeypatch.setattr(gpu.step_cost, "WAYS", {"ours": gpu.step_cost.WAYS["ours"]})
    task = gpu.Task(torch.device("cpu"), {"small": gpu.SMALL_NETWORK}, "fp32", 2, 1, (), "aot_eager")
    lines = list(gpu.compiled(task))[2:]
    assert lines
    for line in lines:
        assert float(line.split("|")[-2]) < 1e-5


@pytest.mark.parametrize("name", list(gpu.PRESETS))
def test_its_networks_are_those_of_the_presets(name):
    assert gpu.PRESETS[name] == preset_settings(name)


def flags_after(setting):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = True
    matmul.allow_fp16_reduced_precision_reduction = matmul.allow_bf16_reduced_precision_reduction = True
    setting()
    reduced = (matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction)
    strict = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    filling = torch.utils.deterministic.fill_uninitialized_memory
    return (*strict, filling, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32, *reduced)


def test_it_computes_with_the_settings_of_trainings():
    try:
        assert flags_after(gpu.as_trainings_do) == flags_after(repeatable)
    finally:
        repeatable()


def test_a_section_that_takes_too_long_is_cut_and_one_that_fails_fails_the_run(monkeypatch, capfd):
    def endless(task):
        yield "first line"
        time.sleep(60)

    def wrong(task):
        yield "before"
        raise UserError("too large")

    monkeypatch.setattr(gpu, "SECTIONS", {"endless": (endless, 1.0), "wrong": (wrong, 60.0)})
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--small"])
    with pytest.raises(UserError, match="a section failed"):
        gpu.main()
    out, err = capfd.readouterr()
    assert "first line" in out and "before" in out and "endless was cut after 1 s; wrong failed" in out
    assert "error: too large" in err


def test_a_machine_without_gpu_is_told_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--sections", "parts"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "this machine has no CUDA device; use --device cpu --small" in done.stderr


def test_numbers_agree_with_float64(monkeypatch):
    monkeypatch.setattr(correctness, "names", lambda: ["edm2"])
    monkeypatch.setattr(correctness, "TOKENS", (70,))
    lines = list(correctness.lines(torch.device("cpu")))
    assert len(lines) == 1 + 3 * 3 + 1 and "kernel has not run" in lines[-1]


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_an_error_above_its_bound_is_named_after_the_table(monkeypatch, error):
    rows = [("net", "fp32", {"F": 1e-9, "tangent": error}), ("net", "bf16", {"F": 1e-3})]
    monkeypatch.setattr(correctness, "found", lambda device: iter(rows))
    lines = correctness.lines(torch.device("cpu"))
    with pytest.raises(UserError, match=r"net fp32 tangent$"):
        for number, line in enumerate(lines):
            assert number < 4, line
