"""A GPU played by the CPU: it finds tensors of both devices in one operation, and steps that wait for the GPU."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda")
Place = Literal["gpu", "cpu", "pinned"]
WAITING = {"item", "tolist", "cpu", "numpy", "nonzero", "masked_select", "unique", "equal", "allclose"}
WAITING |= {"__bool__", "__float__", "__int__", "__index__", "__array__"}
"""Functions that read a tensor's numbers on the host."""
READING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2"}


class Generator(torch.Generator):
    """A generator that says that it draws on the GPU."""

    device = CUDA


class Event:
    """A CUDA event, which counts how often the host has waited for it."""

    waits = 0

    def record(self) -> None: ...

    def synchronize(self) -> None:
        Event.waits += 1


class Gpu(TorchFunctionMode):
    """In the block, `device="cuda"` is a mark on a CPU's tensor, which goes along with everything computed from it.

    A tensor without a mark, such as one that autograd makes, fits both devices. Memory is kept until the end, so that
    no new tensor is taken for an old one.

    Attributes:
        strict: True fails at a call that makes the host wait for the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strict = False
        self._places: dict[int, tuple[Any, Place]] = {}
        self._watch = _Watch(self)

    def __enter__(self) -> "Gpu":
        super().__enter__()
        return self

    def place(self, tensor: Tensor) -> Place | None:
        return self._places.get(tensor.untyped_storage()._cdata, (None, None))[1]

    def put(self, tensor: Tensor, place: Place) -> Tensor:
        storage = tensor.untyped_storage()
        self._places[storage._cdata] = storage, place
        return tensor

    def take(self, *modules: nn.Module) -> None:
        """Puts all of the modules' tensors on the GPU."""
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self.put(tensor, "gpu")

    def waits(self, what: str) -> None:
        if self.strict:
            raise AssertionError(f"{what} makes the host wait for the GPU")

    @contextmanager
    def running(self) -> Iterator["Gpu"]:
        with self._watch, self:
            yield self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        for kind in types:
            if not issubclass(kind, Tensor):  # its own rules are watched as well
                with self:
                    return kind.__torch_function__(func, types, args, kwargs)
        if func == Tensor.device.__get__:
            return CUDA if self.place(args[0]) == "gpu" else func(*args)
        if func == Tensor.is_cuda.__get__:
            return self.place(args[0]) == "gpu"
        tensors = _tensors((args, kwargs))
        if name in WAITING and any(self.place(tensor) == "gpu" for tensor in tensors):
            self.waits(name)
        if name == "to":
            return self._to(func, *args, **kwargs)
        gpu = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        if gpu:
            kwargs["device"] = "cpu"
            if name in ("tensor", "as_tensor"):
                self.waits(f"torch.{name}")
        result = func(*args, **kwargs)
        if gpu or not tensors:
            self._mark(result, "gpu" if gpu else "cpu")
        return result

    def _to(self, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        target = kwargs.get("device", args[0] if args else None)
        target = target.device if isinstance(target, Tensor) else target
        if not isinstance(target, torch.device | str):
            return func(tensor, *args, **kwargs)
        wanted, here = torch.device(target).type == "cuda", self.place(tensor)
        if wanted == (here == "gpu"):
            return tensor
        if not (kwargs.get("non_blocking") and (here in ("gpu", "pinned"))):
            self.waits(f"a copy of {here} memory, non_blocking={kwargs.get('non_blocking', False)},")
        return self.put(tensor.clone(), "gpu" if wanted else "cpu")

    def _mark(self, result: Any, place: Place) -> None:
        for tensor in _tensors(result):
            self.put(tensor, place)


class _Watch(TorchDispatchMode):
    """Every operation that runs, those of the backward pass and of torch's own functions included."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = _tensors((args, kwargs or {}))
        places = [self.gpu.place(tensor) for tensor in tensors]
        on_gpu, name = "gpu" in places, func._schema.name
        mixed = on_gpu and any(
            place in ("cpu", "pinned") and tensor.ndim for tensor, place in zip(tensors, places, strict=True)
        )
        if mixed and name != "aten::copy_":
            raise AssertionError(f"{name} takes tensors of both devices")
        masked = name == "aten::index" and _masks(args[1])
        if mixed or (on_gpu and (name in READING or masked)):
            self.gpu.waits(name)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if self.gpu.place(tensor) is None and (on_gpu or (places and set(places) == {"cpu"})):
                self.gpu.put(tensor, "gpu" if on_gpu else "cpu")
        return result


def _tensors(values: Any) -> list[Tensor]:
    """All tensors in nested arguments or results; torch's own pytree takes several times as long."""
    if isinstance(values, Tensor):
        return [values]
    parts = values.values() if isinstance(values, dict) else values if isinstance(values, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _masks(indices: Iterable[Tensor | None]) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)
