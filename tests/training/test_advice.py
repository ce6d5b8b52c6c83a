"""What a diagnosis advises names the keys of params.yaml that act on the run."""

import pytest

from scm.build import training as training_module
from scm.params import Params
from scm.training.diagnosis import Context
from tests.support.loops import diagnose
from tests.support.models import tiny_model
from tests.support.projects import params_of_all


def context_of(params: Params, model: str) -> Context:
    training = params.teacher if model == "teacher" else params.student.method(model)
    return training_module.health_context(
        params, training, {"model": model, "network": tiny_model().settings.to_dict()}
    )


def test_a_diagnosis_is_told_what_its_advice_depends_on():
    params = params_of_all()
    context = context_of(params, "scd")
    lr_max = params.student.common.lr.max
    assert (context.block, context.tangent, context.lr_max) == ("student.common", "clipped", lr_max)
    assert (context.embedding, context.c_noise, context.data_norm) == ("positional", "t", pytest.approx(0.5 * 8))
    assert (context.fake_lr_max, context.vsd_weight) == (None, None)
    context = context_of(params, "teacher")
    assert (context.block, context.tangent, context.lr_max) == ("teacher", None, params.teacher.lr.max)
    assert context.places == {}


def advice(params: Params, model: str, **last: float) -> str:
    """What the diagnosis says of a skipped step in which these figures were not finite."""
    line = {"images": 8, "skipped": 1, **{f"nonfinite/{figure}": count for figure, count in last.items()}}
    return str(diagnose([line], context_of(params, model))[0])


def test_advice_names_the_place_that_wins():
    """A key of the method's own block hides that of student.common; `lr` and `optimizer` are replaced as a whole."""
    rate = {"max": 4e-3, "warmup": "1Ki", "decay": "constant", "decay_from": 0}
    own = {"student.scd.lr": rate, "student.scd.tangent_warmup": "2Ki", "student.scd.tangent": "raw"}
    bins = {"tangent_term2/3": 1.0}
    assert advice(params_of_all(**own), "scd", **bins).endswith(
        ": set student.scd.tangent: normalized, or lower student.scd.lr.max (it is 0.004), or lengthen "
        "student.scd.tangent_warmup (it is 2,048)"
    )
    mixed = advice(params_of_all(**{"student.scd.p_mean": -0.9, "student.common.tangent": "normalized"}), "scd", **bins)
    assert "lower student.common.lr.max" in mixed and "raise student.common.tangent_norm_c (it is 0.2)" in mixed
    assert "set student.common.tangent: normalized" in advice(params_of_all(**own), "sct", **bins)


def test_advice_names_no_key_without_effect():
    """VSD alone has no tangent and draws its times by its block's own keys; a student's student has no warm-up."""
    params = params_of_all(**{"student.vsd.lr": {"max": 3e-3, "warmup": 0, "decay": "constant", "decay_from": 0}})
    alone = advice(params, "vsd", **{"output_norm/7": 1.0})
    assert alone.endswith("from 8 images on: lower student.vsd.lr.max (it is 0.003), or lengthen student.vsd.lr.warmup")
    fake = advice(params, "vsd", **{"loss/7": 8.0, "fake_loss/7": 1.0})
    assert "lower student.vsd.fake_score.p_mean, or lower student.vsd.fake_score.lr_max (it is 0.0003)" in fake
    differences = advice(params, "ect", **{"squared_error/7": 1.0})
    assert differences.endswith(
        "on: lower student.common.p_mean, or lower student.common.lr.max (it is 0.001), "
        "or lengthen student.common.lr.warmup"
    )
    assert advice(params, "scd_gan", **{"loss/7": 8.0, "gan_loss/7": 8.0}).endswith(
        ": lower student.scd_gan.gan.p_mean, or lower student.scd_gan.gan.weight (it is 0.6), or lower "
        "student.common.lr.max (it is 0.001)"
    )
    judged = advice(params, "scd_gan", **{"loss/3": 8.0, "discriminator_loss/3": 8.0})
    assert "the loss of the discriminator" in judged
    assert judged.endswith(": lower student.scd_gan.gan.lr_max (it is 0.0002), or lengthen student.common.lr.warmup")
    changes = {"student.multistep.tangent_warmup": 0, "student.methods": {"scd": "teacher", "multistep": "scd"}}
    params = params_of_all(**changes, **{"evaluate.models": ["teacher", "scd", "multistep"]})
    assert "tangent_warmup" not in advice(params, "multistep", **{"output_norm/3": 1.0})
    assert "tangent_warmup" in advice(params, "scd", **{"output_norm/3": 1.0})
