"""Other projects' losses on our network, for `benchmarks.peers`; nothing of theirs is in this repository.

A checkout is recognised by a file, imported by its path in a process of its own, and never changed. Each adapter calls
the project's own loss with our network behind the face that this loss expects, in float32 and past its warm-up:

- FastGen: `SCMModel._compute_scm_loss`, without its conversion of EDM networks;
- sCM-mnist: its script train_consistency.py as a whole, with our data, network and, where it must not learn, optimiser;
- edm2_sCM: `TrigFlowSCMLoss`;
- rcm: `T2VDistillModel_rCM._student_scm_step`. Its derivatives are written into the layers of its own network, so ours
  gets torch.func.jvp in their place; its draws are made on this device.

What a loss does not need but its file imports, such as loggers and other networks, is stood in for, which the table
says.
"""

import copy
import importlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.peers_imports import Stub
from scm.errors import UserError
from scm.networks import Model

LATE = 2**30
"""Steps and images after which every warm-up is over."""
CONSISTENCY_TIMES = (-1.0, 1.4)
"""P_mean and P_std, for losses that take them."""


class Seen(NamedTuple):
    """Where a teacher was asked: x_t / sigma_d [B, C, H, W], t [B], and what it said."""

    x: Tensor
    t: Tensor
    output: Tensor


class Asked(nn.Module):
    """Our network as the losses call it; adapters add the faces of their projects.

    Attributes:
        pull: added to the output if it is there. Its gradient is the loss's with respect to the output.
        seen: the last call of a network that does not learn.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.settings = model, model.settings
        self.pull: Tensor | None = None
        self.seen: Seen | None = None
        self.learns = any(value.requires_grad for value in model.parameters())

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        output = self.model(x, t, labels)
        if not self.learns:
            self.seen = Seen(x.detach(), t.detach(), output.detach())
        return output if self.pull is None else output + self.pull

    def log_weight(self, t: Tensor) -> Tensor:
        return self.model.log_weight(t)


@dataclass
class Networks:
    """What a loss is given.

    Attributes:
        batch: the images [B, C, H, W] of the next step and their classes [B].
        learns: True has sCM-mnist's script keep its optimiser.
        distils: False has it train from the data alone.
    """

    student: Asked
    teacher: Asked
    batch: tuple[Tensor, Tensor]
    learns: bool = False
    distils: bool = True

    @property
    def sigma_d(self) -> float:
        return self.student.settings.sigma_d

    @cached_property
    def double(self) -> "Networks":
        """The same in float64."""
        student, teacher = (Asked(copy.deepcopy(asked.model).double()) for asked in (self.student, self.teacher))
        return Networks(student, teacher, (self.batch[0].double(), self.batch[1]))


Turns = Iterator[Any]
"""Yields once for each step that is asked for."""


class Peer(NamedTuple):
    """A project that is known.

    Attributes:
        name: as in the table.
        files: in its checkout alone.
        needless: packages and modules that are stood in for.
        run: takes a step for each turn.
    """

    name: str
    files: tuple[str, ...]
    needless: tuple[str, ...]
    run: Callable[[Networks, Turns], None]


def fastgen(networks: Networks, turns: Turns) -> None:
    method = importlib.import_module("fastgen.methods.consistency_model.sCM")
    settings = importlib.import_module("fastgen.configs.methods.config_scm")
    schedule = importlib.import_module("fastgen.networks.noise_schedule").get_noise_schedule
    sigma_d = networks.sigma_d

    def face(asked: Asked) -> Any:
        def call(x_t: Tensor, t: Tensor, condition: Any, return_logvar: bool = False, return_x0_pred: bool = False):
            output = asked(x_t / sigma_d, t, condition)
            further = [-asked.log_weight(t)] * return_logvar + [output] * return_x0_pred
            return (output, *further) if further else output

        call.noise_scheduler = schedule("trig")  # type: ignore[attr-defined]
        return call

    loss = method.SCMModel.__new__(method.SCMModel)
    nn.Module.__init__(loss)
    loss.config = SimpleNamespace(guidance_scale=None, skip_layers=None)
    loss.sample_t_cfg = settings.SampleTConfig(sigma_data=sigma_d)
    loss.loss_config = settings.LossConfig(use_cd=True)
    loss.sigma_data, loss.precision_amp_jvp, loss.device = sigma_d, None, torch.device("cpu")
    loss.net = SimpleNamespace(noise_scheduler=schedule("edm"))
    loss.net_trigflow, loss.teacher_trigflow = face(networks.student), face(networks.teacher)
    mean, deviation = CONSISTENCY_TIMES
    for _ in turns:
        networks.student.zero_grad()
        x_0, labels = networks.batch
        sigma = (torch.randn(len(x_0)) * deviation + mean).exp()
        loss._compute_scm_loss(x_0, sigma, condition=labels, iteration=LATE)[0].mean().backward()


def edm2_scm(networks: Networks, turns: Turns) -> None:
    sigma_d = networks.sigma_d

    def face(asked: Asked) -> Any:
        def call(x_t: Tensor, t: Tensor, labels: Tensor, return_logvar: bool = False, **_: Any) -> tuple[Tensor, ...]:
            output = asked(x_t / sigma_d, t, labels)
            return (x_t, *([-asked.log_weight(t).view(-1, 1, 1, 1)] if return_logvar else []), output)

        return call

    mean, deviation = CONSISTENCY_TIMES
    options = {"mode": "scd", "P_mean": mean, "P_std": deviation, "sigma_data": sigma_d}
    kind = importlib.import_module("training.loss_scm").TrigFlowSCMLoss
    loss = kind(**options, teacher_net=face(networks.teacher))
    loss.cur_iter = LATE

    class Student:
        training = True
        train = staticmethod(networks.student.train)
        __call__ = staticmethod(face(networks.student))

    for _ in turns:
        networks.student.zero_grad()
        x_0, labels = networks.batch
        (loss(Student(), x_0, labels).sum() / len(x_0)).backward()


def rcm(networks: Networks, turns: Turns) -> None:
    method: Any = importlib.import_module("rcm.models.t2v_model_distill_rcm")
    asked = {"student": networks.student, "teacher": networks.teacher}

    def function(net: str, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:  # x_t has deviation 1 and a frame
        return lambda x_t, t: asked[net](x_t.float().squeeze(2), t.float().flatten(), labels).unsqueeze(2)

    class Loss:
        config = SimpleNamespace(teacher_guidance=1.0, fd_type=0, tangent_warmup=0, loss_scale=1.0)

        def sync(self, *values: Any) -> Any:
            first, *others = values
            return (first, *others) if others else first

        def draw_training_time_G(self, shape: Any) -> Tensor:  # noqa: N802, their name
            mean, deviation = CONSISTENCY_TIMES
            return torch.atan((torch.randn(shape) * deviation + mean).exp() / networks.sigma_d)

        def denoise(self, x_t: Tensor, t: Tensor, condition: Any, net_type: str = "teacher") -> Any:
            return SimpleNamespace(F=function(net_type, condition)(x_t, t))

        def student_F_withT(self, x_t: Any, t: Any, condition: Any) -> Any:  # noqa: N802
            primals, tangents = zip(x_t, t, strict=True)
            return torch.func.jvp(function("student", condition), primals, tangents)

    method.DenoisePrediction = lambda *_: None  # their pictures of the step
    for _ in turns:
        networks.student.zero_grad()
        x_0, labels = networks.batch
        with Here():
            context = ((x_0 / networks.sigma_d).unsqueeze(2), labels, None)
            method.T2VDistillModel_rCM._student_scm_step(Loss(), context, LATE)[1].mean().backward()


class Here(TorchFunctionMode):
    """What asks for a GPU by name is made on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


class Face(nn.Module):
    """Our network as sCM-mnist's script uses its own: one that gives a log variance, and a layer for that to reset."""

    def __init__(self, asked: Asked, networks: Networks) -> None:
        super().__init__()
        self.asked, self.logvar_linear = asked, nn.Linear(1, 1)
        self._networks = [networks]  # hidden from parameters()

    def forward(self, x: Tensor, t: Tensor, return_logvar: bool = False) -> Any:
        output = self.asked(x, t, self._networks[0].batch[1])
        return (output, -self.asked.log_weight(t)[:, None]) if return_logvar else output


class Still(torch.optim.SGD):
    """An optimiser that changes no weight."""

    def __init__(self, parameters: Any, **_: Any) -> None:
        super().__init__(parameters, lr=0.0)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        pass


class Over:
    """A module with some names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def mnist_options(script: ModuleType) -> dict[str, Any]:
    """The script's own hyperparameters: the defaults of its options."""
    return {option.name: option.default for option in script.train.params}


def mnist(networks: Networks, turns: Turns) -> None:
    """Runs the script, whose data loader here waits for turns; it distils if it finds a model.pt."""
    script = importlib.import_module("train_consistency")
    faces = iter([Face(networks.student, networks), Face(networks.teacher, networks)])

    class Bar:
        def __init__(self, batches: Any, **_: Any) -> None:
            self._batches = batches

        def __iter__(self) -> Iterator[Any]:
            return iter(self._batches)

        def set_postfix(self, *_: Any, **__: Any) -> None:
            pass

    def batches(*_: Any, **__: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in turns:
            yield networks.batch

    optim = torch.optim if networks.learns else Over(torch.optim, AdamW=Still)
    replaced: dict[str, Any] = {
        "Unet": lambda *_, **__: next(faces), "DataLoader": batches, "tqdm": Bar, "torch": Over(torch, optim=optim),
        "transforms": Stub("transforms"), "torchvision": Stub("torchvision"),
    }  # fmt: skip
    if not networks.learns:
        replaced["min"] = lambda *_: 1.0  # r of the warm-up, its only use of min
    for name, value in replaced.items():
        setattr(script, name, value)
    options = mnist_options(script)
    given = {"device": "cpu", "epochs": 1, "extra_plots": False}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        if networks.distils:
            torch.save({}, "model.pt")
        script.train.callback(**{**options, **{name: value for name, value in given.items() if name in options}})


PEERS = (
    Peer(
        "FastGen",
        ("fastgen/methods/consistency_model/sCM.py",),
        (
            "av", "boto3", "botocore", "cv2", "diffusers", "einops", "ftfy", "imageio", "loguru", "pkg_resources",
            "timm", "torchvision", "transformers", "wandb", "webdataset",
        ),
        fastgen,
    ),
    Peer("sCM-mnist", ("train_consistency.py", "unet.py"), ("matplotlib", "torchvision", "tqdm"), mnist),
    Peer("edm2_sCM", ("training/loss_scm.py",), ("dnnlib", "torch_utils"), edm2_scm),
    Peer(
        "rcm",
        ("rcm/models/t2v_model_distill_rcm.py",),
        ("imaginaire", "megatron", "rcm.conditioner", "rcm.configs", "rcm.samplers", "rcm.utils"),
        rcm,
    ),
)  # fmt: skip


def recognised(code: Path) -> Peer:
    """Whose checkout the folder is.

    Raises:
        UserError: there is no such folder, or it is none of theirs.
    """
    if not code.is_dir():
        raise UserError(f"--code {code}: there is no such folder")
    for peer in PEERS:
        if all((code / name).is_file() for name in peer.files):
            return peer
    known = ", ".join(f"{peer.name} ({peer.files[0]})" for peer in PEERS)
    raise UserError(f"--code {code}: this is no checkout of {known}")
