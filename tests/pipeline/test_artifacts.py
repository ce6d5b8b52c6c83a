"""The models in `artifacts:` of dvc.yaml, as DVC and GTO read them."""

from pathlib import Path

import pytest
from dvc.annotations import Artifact
from dvc.schema import COMPILED_MULTI_STAGE_SCHEMA
from gto.constants import assert_name_is_valid
from ruamel.yaml import YAML

from scm import methods
from scm.base.project import TEACHER

ROOT = Path(__file__).parents[2]
DEFINED = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
MODELS = (TEACHER, *methods.names())


def test_every_model_is_an_artifact():
    assert COMPILED_MULTI_STAGE_SCHEMA(DEFINED)
    assert sorted(DEFINED["artifacts"]) == sorted(name.replace("_", "-") for name in MODELS)
    (out,) = [out for out in DEFINED["stages"]["select_ema"]["outs"] if out.endswith(".safetensors")]
    for name in MODELS:
        artifact = Artifact(**DEFINED["artifacts"][name.replace("_", "-")])
        assert artifact.path == out.replace("${item.model}", name)
        title = "The diffusion model" if name == TEACHER else f"Student by {methods.find(name).title}"
        assert (artifact.type, artifact.desc) == ("model", title)


@pytest.mark.parametrize("name", DEFINED["artifacts"])
def test_gto_takes_the_names(name):
    assert_name_is_valid(name)
