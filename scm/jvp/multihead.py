"""torch's multi_head_attention_forward, behind nn.MultiheadAttention, from operations whose tangents have rules."""

import inspect
from typing import Any

import torch
from torch.nn import functional

from scm.jvp.values import Refused

NAMES = tuple(inspect.signature(functional.multi_head_attention_forward).parameters)


def multi_head_attention(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Attention of several heads with its projections; arguments and results are torch's, tensors or Duals.

    With need_weights the scores of all pairs of tokens are stored, as the weights themselves are.
    """
    given = {**dict(zip(NAMES, args, strict=False)), **kwargs}
    _check(given)
    parts = [given[name] for name in ("query", "key", "value")]
    batched, alike = parts[0].ndim == 3, parts[0] is parts[1] is parts[2]
    if not batched:
        parts = [x.unsqueeze(1) for x in parts]
    length, batch, channels = parts[0].shape
    heads = given["num_heads"]
    q, k, v = _with_biases(_projected(given, parts, alike), given, batch)
    q, k, v = (x.reshape(x.shape[0], batch, heads, -1).transpose(0, 1).transpose(1, 2) for x in (q, k, v))
    need_weights, dropout = given.get("need_weights", True), given["dropout_p"] if given.get("training", True) else 0.0
    causal = bool(given.get("is_causal")) and not need_weights and given.get("key_padding_mask") is None
    mask = None if causal else _mask(given, q, k)
    if need_weights:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        weights = functional.dropout(weights, dropout) if dropout else weights
        output = weights @ v
        weights = weights.mean(dim=1) if given.get("average_attn_weights", True) else weights
    else:
        weights, output = None, functional.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
    output = output.transpose(1, 2).transpose(0, 1).reshape(length, batch, channels)  # torch's layout, for its draws
    output = functional.linear(output, given["out_proj_weight"], given["out_proj_bias"])
    if batched:
        return output, weights
    return output.reshape(length, -1), None if weights is None else weights.reshape(*weights.shape[1:])


def _check(given: dict[str, Any]) -> None:
    """Refuses what has no tangent, or what torch refuses."""
    if given.get("static_k") is not None or given.get("static_v") is not None:
        raise Refused("multi_head_attention_forward with static_k or static_v has no tangent: pass key and value")
    if given.get("is_causal") and given.get("attn_mask") is None:
        raise Refused("is_causal is a hint about attn_mask: pass the mask too")


def _projected(given: dict[str, Any], parts: list[Any], alike: bool) -> list[Any]:
    """Queries, keys and values, [tokens, batch, channels] each; for self-attention by one product."""
    weight, bias = given["in_proj_weight"], given["in_proj_bias"]
    if alike and not given.get("use_separate_proj_weight"):
        return list(functional.linear(parts[0], weight, bias).chunk(3, dim=-1))
    if given.get("use_separate_proj_weight"):
        weights = [given[name] for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")]
    else:
        weights = weight.chunk(3)
    biases = (None, None, None) if bias is None else bias.chunk(3)
    return [functional.linear(x, w, b) for x, w, b in zip(parts, weights, biases, strict=True)]


def _with_biases(projected: list[Any], given: dict[str, Any], batch: int) -> list[Any]:
    """Appends the token of add_bias_kv and that of add_zero_attn to keys and values."""
    q, *rest = projected
    for index, name in enumerate(("bias_k", "bias_v")):
        if given[name] is not None:
            rest[index] = torch.cat([rest[index], given[name].repeat(1, batch, 1)])
        if given["add_zero_attn"]:
            rest[index] = torch.cat([rest[index], q.new_zeros(1, batch, q.shape[-1])])
    return [q, *rest]


def _mask(given: dict[str, Any], q: Any, k: Any) -> Any:
    """What to add to the scores, broadcasting to [batch, heads, queries, keys]; appended tokens are seen by all."""
    batch, heads, length, _ = q.shape
    mask, padding = given.get("attn_mask"), given.get("key_padding_mask")
    if mask is not None:
        mask = _added(mask, q, k)
        mask = mask.reshape(batch, heads, length, -1) if mask.ndim == 3 and mask.shape[0] != 1 else mask
    if padding is not None:
        padding = _added(padding, q, k).reshape(batch, 1, 1, -1)
        mask = padding if mask is None else mask + padding
    return mask


def _added(mask: Any, q: Any, k: Any) -> Any:
    """A mask as numbers to add: -inf where torch's boolean mask is True, 0 for the tokens behind it."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(mask, -torch.inf)
    return functional.pad(mask, (0, k.shape[-2] - mask.shape[-1]))
