"""A package loads anywhere, with little, and without a pickle; a version in the registry is that package."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scm.base import weights
from scm.errors import UserError
from scm.product.content import Content
from scm.product.packaging import content_of, copy_source, log_version, needed_modules, requirements
from scm.product.serving import has_champion
from tests.product.conftest import copied, run_example
from tests.support.models import save_model

LOADER = """
import json, pickle, sys

class Blocked:
    names = set(sys.argv[2].split(","))
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocked())
import cloudpickle, mlflow.pyfunc, pandas, torch

def refused(*args, **kwargs):
    raise AssertionError("something was unpickled")

for module in (pickle, cloudpickle):
    module.load = module.loads = refused
pickle.Unpickler = torch.load = refused
model = mlflow.pyfunc.load_model(sys.argv[1])
import scm
rows = [{"class": "two", "seed": 5, "steps": steps} for steps in (1, 2, 7)]
images = model.predict(pandas.DataFrame(rows))
print(json.dumps({"scm": scm.__file__, "png": list(images["png"]), "modules": sorted(sys.modules)}))
"""
ABSENT = ("diffusers", "dvc", "kornia", "matplotlib", "ruamel", "sklearn", "torchmetrics", "transformers", "webdataset")


@pytest.mark.slow
def test_a_package_draws_the_same_far_from_the_project_without_pickles(packed, tmp_path):
    """Another folder, a process that finds no scm but the package's own, most libraries missing."""
    from scm.product.model import Product

    product = Product(packed / "artifacts/product", 16, 100, "cpu")
    wishes = [product.wish({"class": "two", "seed": 5, "steps": steps}) for steps in (1, 2, 7)]
    expected = [row["png"] for row in product.draw(wishes)]
    away = Path(shutil.copytree(packed, tmp_path / "away"))
    shutil.rmtree(away.parent / "home", ignore_errors=True)
    (tmp_path / "load.py").write_text(LOADER)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(tmp_path / "load.py"), str(away), ",".join(ABSENT)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["png"] == expected
    assert Path(told["scm"]).is_relative_to(away)
    ours = {name for name in told["modules"] if name.startswith("scm")}
    unused = needed_modules("scm.product.model") - ours  # architectures that this model does not have
    assert unused == {f"scm.networks.architectures.{name}" for name in ("ddpmpp", "dit")}
    assert ours < needed_modules("scm.product.model")


def test_a_package_holds_text_and_tensors_alone_and_no_place_of_this_machine(packed, project):
    files = [path for path in packed.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    kinds = {path.suffix for path in files}
    assert kinds == {"", ".json", ".md", ".py", ".safetensors", ".txt", ".yaml"}
    home = str(Path(__file__).parents[2])
    for path in files:
        content = path.read_bytes()
        for place in (home, str(project.root), str(packed.parent)):
            assert place.encode() not in content, path


def test_the_source_that_goes_along_is_what_drawing_needs(tmp_path):
    names = copy_source(tmp_path / "scm")
    assert {
        "scm",
        "scm.generation.trained",
        "scm.networks.architectures.edm2",
        "scm.networks.architectures.ddpmpp",
        "scm.samplers.multistep",
    } <= set(names)
    for heavy in ("scm.build.models", "scm.params", "scm.tracking.sending", "scm.training", "scm.product.packaging"):
        assert not [name for name in names if name.startswith(heavy)]
    copied = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.py")}
    assert len(copied) == len(names) and Path("scm/networks/architectures/edm2.py") in copied


def test_requirements_are_pinned():
    lines = requirements("identity")
    assert [line.partition("==")[0] for line in lines] == [
        "mlflow",
        "torch",
        "numpy",
        "pandas",
        "safetensors",
        "pillow",
    ]
    assert all(re.fullmatch(r"[a-z]+==\d+(\.\d+)+", line) for line in lines)
    assert requirements("sd_vae")[-1].startswith("diffusers==")


def test_models_that_are_not_there_or_do_not_belong_together_are_refused(project, tmp_path):
    with pytest.raises(UserError, match=r"^model vsd: params\.yaml has teacher, scd, sct; use one of them$"):
        content_of(project, "vsd")
    with pytest.raises(UserError, match=r"models/sct/model\.safetensors is missing: run `scm run` to make it$"):
        content_of(project, "sct")
    copy = copied(project, tmp_path)
    _, header = weights.load(copy.root / "models/scd/model.safetensors")
    save_model(copy.root, "scd", codec={**header["codec"], "mean": [0.5]})
    with pytest.raises(
        UserError, match=r"^models/scd was made with another codec than data/codec/header.json holds \(mean differ"
    ):
        content_of(copy, "scd")


def test_settings_of_another_format_are_refused(packed, tmp_path):
    values = json.loads((packed / "artifacts/product/settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(UserError, match=r"not of format 2; load it with the scm that packaged it$"):
        Content.read(tmp_path)


@pytest.mark.slow
def test_versions_in_the_registry(project, tmp_path, monkeypatch):
    """Two versions of one content: two numbers, one set of files, on the run of evaluate; and it loads by its alias."""
    import mlflow
    import pandas as pd

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copy = copied(project, tmp_path)
    root = copy.root
    assert log_version(copy, "scd", {"scm.commit": "abc"}) == "1"
    (description,) = (root / "mlartifacts").rglob("MLmodel")
    stored = description.stat().st_mtime_ns
    assert log_version(copy, "scd", {"scm.commit": "def"}) == "2"
    assert [*(root / "mlartifacts").rglob("MLmodel")] == [description] and description.stat().st_mtime_ns == stored
    description.unlink()  # as an upload that was cut off leaves it
    weights_file = description.parent / "artifacts/product/student.safetensors"
    weights_file.write_bytes(b"half")
    assert log_version(copy, "scd", {}) == "3"
    assert description.exists() and weights_file.read_bytes() == (root / "models/scd/model.safetensors").read_bytes()
    client = mlflow.MlflowClient(tracking_uri=copy.tracking.store)
    first, second = (client.get_model_version("digits", number) for number in ("1", "2"))
    assert (first.tags["scm.commit"], second.tags["scm.commit"]) == ("abc", "def")
    assert first.source == second.source and first.status == "READY"
    run = client.get_run(str(first.run_id))
    assert run.data.tags["scm.stage"] == "evaluate" and run.data.tags["scm.item"] == "scd"
    before = mlflow.get_tracking_uri()
    try:
        assert not has_champion(copy)
        client.set_registered_model_alias("digits", "champion", "2")
        card = (description.parent / "artifacts/product/card.md").read_text(encoding="utf-8")
        monkeypatch.chdir(root)
        run_example(card)
        assert (root / "image-0.png").read_bytes()[:4] == b"\x89PNG"
        assert has_champion(copy)  # and MLflow looks in this store from now on
        model = mlflow.pyfunc.load_model("models:/digits@champion")
    finally:
        mlflow.set_tracking_uri(before)
    (png,) = model.predict(pd.DataFrame([{"class": "one", "seed": 1, "steps": 1}]))["png"]
    assert base64.b64decode(png)[:4] == b"\x89PNG"


@pytest.mark.parametrize("file", ["scd.safetensors", "teacher.safetensors", "codec/header.json", "settings.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "of another model"])
def test_a_damaged_package_is_to_be_fetched_or_made_again(packed, tmp_path, file, damage):
    from scm.product.model import Product

    folder = Path(shutil.copytree(packed / "artifacts/product", tmp_path / "product"))
    path = folder / file.replace("scd", "student")
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:40])
    elif damage == "of another model" and path.suffix == ".safetensors":
        _, header = weights.load(
            folder / "student.safetensors" if "teacher" in file else folder / "teacher.safetensors"
        )
        weights.save(path, {"a": torch.zeros(1)}, header)
    with pytest.raises(UserError, match=f"{path.name}.*: fetch the package again, or make it again"):
        Product(folder, 16, 100, "cpu")
