"""Budgets that are scaled together: every preset stays valid, and no schedule, search or sample size is left behind."""

import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from scm import methods
from scm.base.count import Count
from scm.params import USERS_SECTIONS, Params, dump, flatten, load, validate
from scm.params.notes import notes
from scm.params.scaling import STEPS, TABLE, scaled
from scm.presets import apply
from scm.presets.overlays import laid_over
from tests.support.projects import params_with

ROOT = Path(__file__).parents[2]
NAMES = apply.names(ROOT)
NO_BUDGET = {"data.max_pixels", "data.shard_images", "runtime.checkpoint_every"}
"""Counts that do not scale: of the images, and of a checkpoint's interval, on which nothing depends."""


read = functools.cache(apply.read_preset)
OWN = {key: value for key, value in dump(load(ROOT / "params.yaml")).items() if key in USERS_SECTIONS}


@functools.cache
def preset(name: str) -> dict[str, Any]:
    return {**laid_over(OWN, apply.resolve(ROOT, name, read)), "preset": name}


def plain(overrides: dict[str, Any]) -> dict[str, Any]:
    return dump(params_with(overrides))


def at(values: dict[str, Any], *keys: str) -> list[Any]:
    flat = flatten(values)
    return [flat[key] for key in keys]


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_stays_valid_at_every_scale(name):
    whole = preset(name)
    for factor in (0.001, 0.01, 0.1, 0.5, 3):
        params = validate(scaled(whole, factor).values, f"{name} x {factor}")
        assert list(notes(params)) == [], factor
        for training in (params.teacher, *(params.student.method(method) for method in params.student.methods)):
            assert training.images // training.batch >= STEPS


@pytest.mark.parametrize("name", NAMES)
def test_one_changes_nothing(name):
    assert scaled(preset(name), 1.0).values == preset(name)


def test_a_tenth_of_digits_in_figures():
    before = copy.deepcopy(preset("digits-plain"))
    found = scaled(before, 0.1)
    assert before == preset("digits-plain") and found.told == []
    keys = {
        "teacher.images": "19Ki", "teacher.lr.warmup": "1Ki", "teacher.lr.decay_from": 9856,
        "student.scd.images": "19Ki", "student.sct.images": 6528, "student.common.lr.warmup": 512,
        "student.common.lr.decay_from": 4928, "student.common.tangent_warmup": "1Ki",
        "select.samples": 180, "evaluate.samples": 1000, "runtime.log_every": 410, "runtime.checkpoint_every": "32Ki",
        "ema.snapshots": 16, "select.t_mid": "[0.4, 0.6, 0.8, 1.1]", "reference.classifier.epochs": 16,
    }  # fmt: skip
    assert at(found.values, *keys) == list(keys.values())


def test_up_trains_longer_and_measures_the_same():
    whole, found = preset("digits"), scaled(preset("digits"), 3).values
    assert at(found, "teacher.images", "teacher.lr.decay_from") == ["576Ki", "288Ki"]
    for section in ("select", "evaluate", "runtime", "ema"):
        assert found[section] == whole[section]


def test_no_fewer_samples_than_features_and_then_fewer_candidates():
    found = scaled(preset("digits"), 0.01)
    keys = ("select.samples", "evaluate.samples", "select.sigma_rel.teacher", "select.t_mid", "select.progress")
    assert at(found.values, *keys) == [64, 100, "[0.1]", "[0.8]", 4]
    need = "but the 64 features that the distance compares need as many"
    assert found.told == [f"select.samples = 64: 0.01 of it would be 18, {need}"]
    found = scaled(preset("imagenet512-m"), 0.01)
    assert at(found.values, "select.samples", "evaluate.samples", "evaluate.repeats") == [2048, 2048, 1]
    assert [line.partition(" = ")[0] for line in found.told] == ["select.samples", "evaluate.samples"]
    few = plain({"select.samples": 50, "evaluate.samples": 60})
    assert at(scaled(few, 0.01).values, "select.samples", "evaluate.samples") == [50, 60], "never more than before"


def test_minima_and_what_is_off_stays_off():
    values = plain(
        {"teacher.lr.warmup": 0, "student.common.tangent_warmup": 0, "ema.halflife": "20Ki", "select.coarse": 400}
    )
    found = scaled(values, 0.0005).values
    batch = values["teacher"]["batch"]
    keys = ("teacher.images", "teacher.lr.warmup", "teacher.lr.decay_from", "student.common.tangent_warmup")
    assert [Count(value) for value in at(found, *keys)] == [STEPS * batch, 0, batch, 0]
    assert found["select"]["coarse"] == 400 * found["select"]["samples"] // values["select"]["samples"]
    assert Count(found["ema"]["halflife"]) == 10
    assert scaled(plain({"ema.halflife": None, "select.coarse": None}), 0.5).values["ema"]["halflife"] is None


def test_halflife_and_snapshots_fit_the_shortest_training():
    schedule = {"lr.decay_from": "2Ki", "lr.warmup": "1Ki", "tangent_warmup": "1Ki"}
    few = {"student.sct.images": 5000, "ema.halflife": 1000, "ema.snapshots": 39, "select.progress": 20}
    values = plain(few | {f"student.common.{key}": value for key, value in schedule.items()})
    found = scaled(values, 0.05).values
    validate(found, "scaled")
    assert at(found, "ema.snapshots", "select.progress") == [STEPS, STEPS]
    assert 5 * Count(found["ema"]["halflife"]) <= Count(found["student"]["sct"]["images"])


def test_ect_keeps_its_number_of_stages():
    whole = preset("digits-methods")

    def stages(values: dict[str, Any]) -> int:
        block = values["student"]["ect"]
        return -(-Count(block["images"]) // Count(block["doubling"]))

    assert [stages(scaled(whole, factor).values) for factor in (0.01, 0.03, 0.05, 0.07, 0.5, 3)] == [stages(whole)] * 6


def counts(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Keys of the schema whose values are counts."""
    for name, field in model.model_fields.items():
        kinds, key = [field.annotation], f"{prefix}{name}"
        for kind in kinds:
            kinds += get_args(kind)
        if any(isinstance(kind, type) and issubclass(kind, Count) for kind in kinds):
            yield key
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from counts(kind, f"{key}.")


def test_every_count_of_the_schema_scales_or_is_known_not_to():
    """So that a new key is thought of."""
    blocks = "|".join(("common", *methods.names()))
    found = {re.sub(rf"^student\.({blocks})\.", "student.*.", key) for key in counts(Params)}
    assert found - NO_BUDGET <= TABLE.keys() and found >= NO_BUDGET
