"""The floating-point formats of params.yaml."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AUTO = "auto"


def has_bf16(device: torch.device) -> bool:
    """True if the device has instructions for bfloat16; a CPU without them takes several times as long as in float32.

    Versions of torch that do not tell a CPU's instructions count as a CPU without them.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = getattr(torch.cpu, "get_capabilities", dict[str, bool])()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is ARM's


def precision_on(device: torch.device, asked: str) -> str:
    """The format `asked`, or for `auto` the device's: bf16 if it has instructions for it, else fp32."""
    if asked != AUTO:
        return asked
    return "bf16" if has_bf16(device) else "fp32"
