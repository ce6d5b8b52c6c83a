"""Operations that draw or write, beside the table of docs/jvp.md: other names, errors, and the caller's tensors."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from scm.jvp import RULES, Dual, Refused, general, output_and_tangent


def along(function, x, tangent=None):
    return output_and_tangent(function, (x,), (torch.ones_like(x) if tangent is None else tangent,))


def test_an_input_is_never_written():
    x = torch.randn(3)
    before = x.clone()
    for change in (lambda x: x.add_(1), lambda x: x.view(-1).mul_(2), lambda x: functional.relu(x, inplace=True)):
        with pytest.raises(Refused, match="memory that an input has"):
            along(change, x)
        with pytest.raises(Refused):
            along(lambda x, change=change: change(x[1:]) * 2, x)
    assert torch.equal(x, before)


def test_python_does_not_add_where_writing_was_refused():
    """A TypeError in `plain += x` would make Python try `plain + x`, and rebind the name."""
    plain = torch.zeros(3)
    with pytest.raises(Refused, match=r"add_ writes in place.*torch\.zeros_like\(x\)"):
        along(lambda x: plain.__iadd__(x), torch.ones(3))

    def function(x):
        y = plain
        y **= x
        return y

    with pytest.raises(Refused, match="writes in place"):
        along(function, torch.ones(3))
    assert not plain.any()


def test_another_name_for_a_tensor_sees_what_is_written_into_it():
    def function(x):
        h = x * 2
        names = [h, h.view(-1), h[1:]]
        h.mul_(x)
        assert all(isinstance(name, Dual) for name in names)
        return torch.cat([names[0].sum()[None], names[1], names[2]])

    x = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    output, tangent = along(function, x)
    assert output.tolist() == [28, 2, 8, 18, 8, 18]
    assert tangent.tolist() == [24, 4, 8, 12, 8, 12]


def test_a_tangent_of_another_layout_than_its_value_is_not_written():
    """The value is copied by reshape, where the tangent is only viewed: a write would change another's tangent."""
    x = torch.randn(3, 4, dtype=torch.float64)
    value, change = (x * 1).t().contiguous().t(), torch.randn(3, 4, dtype=torch.float64)

    def function(dual):
        flat = dual.reshape(-1)
        flat[0] = 0
        return flat.sum() + dual.sum()

    with pytest.raises(Refused, match="another layout"):
        output_and_tangent(function, (value,), (change,))


@pytest.mark.parametrize("layer", [nn.Dropout(0.4), nn.Dropout2d(0.4), nn.AlphaDropout(0.4), nn.RReLU()])
def test_layers_draw_once(layer):
    """Value and tangent along the value itself agree, as the layers are linear once their draws are made."""
    x = torch.randn(4, 5, 3, 3, dtype=torch.float64)
    torch.manual_seed(3)
    expected, after = layer(x), torch.rand(1)
    torch.manual_seed(3)
    output, tangent = along(layer, x, x)
    assert torch.equal(output, expected) and torch.equal(torch.rand(1), after)
    shift = layer(torch.zeros_like(x)).detach() if isinstance(layer, nn.RReLU) else None
    if shift is not None or isinstance(layer, nn.Dropout | nn.Dropout2d):
        assert torch.allclose(tangent, output)


def test_draws_that_cannot_be_repeated_are_refused(monkeypatch):
    monkeypatch.setattr(general, "_agree", lambda again, before: False)
    with pytest.raises(Refused, match="dropout2d draws random numbers, and drew others"):
        along(nn.Dropout2d(0.4), torch.ones(1, 2, 3, 3))


def test_compiled_code_refuses_draws_by_name(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(Refused, match="rrelu draws random numbers, and compiled code"):
        along(nn.RReLU(), torch.ones(2))
    with pytest.raises(Refused, match="writes in place"):
        along(lambda x: (x * 1).add_(1), torch.ones(2))


def test_an_operator_of_a_library_needs_a_rule(monkeypatch):
    """torch takes the tangent of an operator without a derivative for 0, and says nothing."""
    library = torch.library.Library("scm_test", "DEF")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda x: x * 2, "CompositeExplicitAutograd")
    x = torch.ones(2)
    for operator in (torch.ops.scm_test.double, torch.ops.scm_test.double.default):
        with pytest.raises(Refused, match="operator of a library"):
            along(operator, x)
    monkeypatch.setitem(RULES, "double", lambda func, result, args, kwargs: func(args[0].tangent))
    assert torch.equal(along(torch.ops.scm_test.double, x)[1], 2 * x)
    assert torch.equal(along(lambda x: torch.ops.aten.mul.Tensor(x, x), x)[1], 2 * x)


def test_a_rule_of_ones_own_is_used(monkeypatch):
    monkeypatch.setitem(RULES, "erf", lambda func, result, args, kwargs: args[0].tangent * 7)
    assert along(torch.erf, torch.zeros(2))[1].tolist() == [7, 7]
    assert along(lambda x: x.erf(), torch.zeros(2))[1].tolist() == [7, 7]


@pytest.mark.parametrize(
    ("primal", "tangent", "message"),
    [
        (torch.ones(2), torch.ones(1), r"input 0 is torch.float32 \[2\]"),
        (torch.ones(2), torch.ones(2).double(), "its tangent is torch.float64"),
        (torch.ones(2, dtype=torch.long), torch.ones(2), "only dense real numbers"),
        (torch.ones(2) * 1j, torch.ones(2) * 1j, "only dense real numbers"),
    ],
)
def test_an_input_and_its_tangent_have_one_form(primal, tangent, message):
    with pytest.raises(Refused, match=message):
        output_and_tangent(lambda x: x, (primal,), (tangent,))


def test_attributes_are_the_values():
    x = torch.randn(2, 3, requires_grad=True)

    def function(x):
        assert torch.is_tensor(x) and x.requires_grad and not x.is_cuda and not x.is_sparse and x.itemsize == 4
        assert x.layout == torch.strided and x.is_floating_point() and len(x) == 2 and not hasattr(x, "nonsense")
        for name in ("requires_grad", "data"):  # would be set on the Dual alone
            with pytest.raises(AttributeError):
                setattr(x, name, False)
        return x.mT @ x

    assert along(function, x)[0].shape == (3, 3)
    assert not torch.is_tensor(Dual(x, x))


def test_dropout_that_drops_nothing_is_its_input_itself():
    """As in torch, where a write into the result then changes the input too."""

    def function(x):
        h = x.clone()
        y = torch.nn.functional.dropout(h, 0.5, training=False)
        y += 1
        return h + y

    x = torch.randn(3, dtype=torch.float64)
    output, tangent = output_and_tangent(function, (x,), (torch.ones_like(x),))
    assert torch.equal(output, 2 * (x + 1)) and torch.equal(tangent, torch.full_like(x, 2))


def test_one_tangent_inside_another_and_numbers_with_a_tangent_are_refused():
    x = torch.randn(3, dtype=torch.float64)
    one = torch.ones_like(x)
    with pytest.raises(Refused, match="inside output_and_tangent"):
        output_and_tangent(lambda a: output_and_tangent(lambda b: a * b, (x,), (one,))[1], (x,), (one,))
    with pytest.raises(Refused, match="full_like takes a number"):
        output_and_tangent(lambda a: torch.full_like(a, a.mean()), (x,), (one,))
    with pytest.raises(Refused, match="inference mode"), torch.inference_mode():
        output_and_tangent(torch.sin, (x,), (one,))
    assert torch.is_tensor is output_and_tangent.__globals__["_TORCHS"]  # whatever was refused


def test_the_generator_is_where_it_would_be_after_a_refusal():
    x = torch.rand(4, dtype=torch.float64) + 1
    torch.manual_seed(0)
    torch._standard_gamma(x)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with pytest.raises(Refused):
        output_and_tangent(torch._standard_gamma, (x,), (torch.ones_like(x),))
    assert torch.equal(torch.rand(3), expected)
