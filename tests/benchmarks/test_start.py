"""The parameters of benchmarks/start.py are possible ones."""

import pytest

from benchmarks.start import EDM2_KIND, SCALES, TENTH, values_with
from scm.params import validate

GUIDE = {"select.guide": "early.safetensors", "select.guide_sha256": "0" * 64, "select.guidance.teacher": SCALES}


@pytest.mark.parametrize("changes", [EDM2_KIND, TENTH, GUIDE])
def test_each_trials_parameters_pass_the_checks(changes):
    params = validate(values_with(changes), "params.yaml")
    assert params.teacher.images == (6400 if changes is TENTH else 65_536) and not params.mlflow.enabled
