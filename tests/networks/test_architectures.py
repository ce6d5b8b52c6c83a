"""Architectures are found by their names; what params.yaml may ask of each has a file of the same name."""

import dataclasses

import pytest

from scm.base import registry
from scm.errors import UserError
from scm.networks import Model
from scm.networks.architectures import names
from scm.params import architectures as rules
from scm.product.packaging import needed_modules
from tests.support.models import TINY


def test_each_architecture_has_a_file_of_what_params_may_ask_of_it():
    assert registry.names(rules.__name__) == names()


def test_an_unknown_architecture_is_refused_in_a_line():
    with pytest.raises(UserError, match=r"^network\.architecture 'unet': scm has ddpmpp, dit, edm2; use one of them$"):
        Model(dataclasses.replace(TINY, architecture="unet"))


def test_a_packaged_model_takes_every_architecture_along():
    assert {f"scm.networks.architectures.{name}" for name in names()} <= needed_modules("scm.networks")
