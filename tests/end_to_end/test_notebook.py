"""docs/first-images.ipynb: what git keeps of it, and the whole of it run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT, environment, make_project

NOTEBOOK = "docs/first-images.ipynb"
RUN = "from nbclient.cli import main; main()"
CELLS = 10


def code(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_git_keeps_ten_numbered_cells_without_outputs():
    cells = code(json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8")))
    assert [cell["source"][0].split(".")[0] for cell in cells] == [f"# {number}" for number in range(1, CELLS + 1)]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.slow
@pytest.mark.long
def test_the_notebook_goes_from_images_to_samples(tmp_path):
    project = make_project(tmp_path)
    settings = {key: value for key, value in environment().items() if key != "SCM_STARTED"}
    command = [sys.executable, "-c", RUN, "--inplace", "--timeout=900", NOTEBOOK]
    done = subprocess.run(command, cwd=project, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = code(json.loads((project / NOTEBOOK).read_text(encoding="utf-8")))
    said = [json.dumps(cell["outputs"]) for cell in cells]
    assert "400" in said[1] and "data.source: digits -> folder" in said[2] and "stages run" in said[3]
    assert "400 images" in said[4] and "results/report.html" in said[5]
    assert "| scd | 1 |" in said[6] and "| teacher | 35 |" in said[6]
    assert all("image/png" in said[number] for number in (4, 7, 8, 9))
    assert "torch.Size([8, 1, 8, 8]) torch.uint8" in said[8]
    assert (project / "first.png").is_file() and Path(project / "models/scd/model.safetensors").is_file()
