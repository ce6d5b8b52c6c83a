"""torch.compile of a network traces its forward and its tangent whole, and both give eager's numbers."""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scm.jvp import output_and_tangent, recomputed
from scm.networks import layers
from tests.support.models import FAMILIES, tiny_model

SMALL = {"multipliers": (1,), "blocks": 0, "attention": ()}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def results(model: torch.nn.Module) -> list[Tensor]:
    """F and its tangent, the gradients, and F alone as a teacher gives it."""
    draws = torch.Generator().manual_seed(3)
    x, along_x = torch.randn(2, 4, 1, 8, 8, generator=draws)
    t, along_t = torch.rand(2, 4, generator=draws)
    labels = torch.tensor([0, 2, 1, -1])
    model.zero_grad()
    torch.manual_seed(5)  # of dropout
    output, tangent = output_and_tangent(lambda x, t: model(x, t, labels), (x, t), (along_x, along_t))
    assert not tangent.requires_grad
    output.square().mean().backward()
    with torch.no_grad():
        plain = model(x, t, labels)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [output.detach(), tangent, plain, *gradients]


def check(family: str, backend: str, recomputed: Callable[..., Tensor] | None = None, **changes: object) -> None:
    """With dropout, whose masks must be the same."""
    model = tiny_model(dropout=0.4, **FAMILIES[family], **changes).train()
    expected = results(model)
    if recomputed is not None:
        layers.recompute_blocks(model, recomputed)
    model.network.compile(backend=backend, fullgraph=True)
    for ours, eager in zip(results(model), expected, strict=True):
        assert torch.allclose(ours, eager, rtol=1e-4, atol=1e-5 * float(eager.abs().max()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("edm2", SMALL),  # what tells it from the next, its embedding and modulation, is in each block
        ("dit-trigflow", {"blocks": 1}),
        *(
            pytest.param(family, {"blocks": 0}, marks=pytest.mark.long)
            for family in ("edm2-trigflow", "ddpmpp-trigflow")
        ),
    ],
)
def test_each_family_is_traced_whole(family: str, changes: dict[str, object]):
    check(family, "aot_eager", **changes)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_blocks_whose_activations_are_computed_again_are_traced_whole():
    check("edm2-trigflow", "aot_eager", recomputed, **SMALL)


@pytest.mark.filterwarnings("ignore")
def test_activations_of_a_network_without_tangents_are_computed_again_when_compiled():
    asked: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        asked.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    x = torch.ones(2, requires_grad=True)
    torch.compile(lambda x: layers.recomputed(torch.sin, x), backend=backend, fullgraph=True)(x)
    assert "tag_activation_checkpoint" in asked


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("g++") is None, reason="on the CPU torch.compile needs a C++ compiler")
@pytest.mark.parametrize("family", ["edm2-trigflow", "ddpmpp-trigflow"])
def test_compiled_code_gives_the_same_numbers(family: str):
    check(family, "inductor", **SMALL)
