"""State divided over the processes: the same weights to the bit, and checkpoints that any number of processes reads."""

from pathlib import Path
from unittest import mock

import pytest
import torch

from scm.base import weights
from scm.base.distributed import Ranks
from scm.base.files import sha256
from scm.errors import Interrupted, UserError
from scm.training import checkpoint, loop
from scm.training.gradients import BUCKET
from scm.training.record import SNAPSHOTS
from scm.training.settings import Auxiliary
from scm.training.shares import Shares, owners
from tests.support.loops import ALONE, Digits, equal, result, score_distillation, settings
from tests.support.models import tiny_model
from tests.support.processes import together


def trainer(work: Path, ranks: Ranks, *, divided: bool, stopping=lambda: False, updates: int = 1, **changes):
    """Six steps, which 1, 2 or 3 processes can share, of a student with a fake score beside it, and a probe."""
    method, small = score_distillation(updates), {"batch": 12, "images": 72, "halflife": 64, "snapshots": 2}
    return loop.Trainer(
        tiny_model(dropout=0.2), method, Digits(12, ranks), settings(**small, **changes), work, ranks, stopping,
        lambda text: None, Auxiliary(method.fake, 0.5), probe, divided=divided, watch=None if ranks.rank else Seen(),
    )  # fmt: skip


class Seen:
    """A watch, which rank 0 alone has."""

    def resumed(self, images, lines, health) -> None:
        assert [line["images"] for line in lines] == sorted(
            line["images"] for line in lines if line["images"] <= images
        )

    def add(self, line, health) -> None:
        assert line["images"]

    def snapshot(self, model, average, header, images) -> None:
        assert images in (36, 72) and probe(model, average) and header == {"network": {}}


def probe(model, average) -> dict[str, float]:
    assert average.keys() == dict(model.named_parameters()).keys()
    return {"sample_fd": float(sum(value.double().sum() for value in average.values()))}


def interrupt(work: Path, ranks: Ranks, *, divided: bool) -> None:
    """Ends a training after its fourth step."""
    stops = iter([False] * 3 + [True])
    with pytest.raises(Interrupted):
        trainer(work, ranks, divided=divided, stopping=lambda: next(stops)).run()


def test_the_largest_parameters_are_shared_out_first():
    assert owners([3, 3, 2, 2, 2], 2) == [0, 1, 0, 1, 0]
    assert owners([1, 1], 4) == [0, 1]
    sizes = [37 * number % 101 for number in range(1000)]
    owner = owners(sizes, 8)
    shares = [sum(size for size, each in zip(sizes, owner, strict=True) if each == rank) for rank in range(8)]
    assert max(shares) - min(shares) <= 1


def test_one_process_keeps_everything(tmp_path):
    one, kept = trainer(tmp_path, ALONE, divided=True), {"a": torch.ones(1)}
    assert one.shares.indices == list(range(len(one.parameters)))
    assert one.shares.whole(kept) is kept


KINDS = {"adam": {}, "radam": {"optimizer": "radam", "updates": 2}}
"""With 2 updates, the student rests in every other step."""


def spread_all_forms(ranks: Ranks) -> None:
    """Large and small parameters, a large one that is not contiguous, and one without a gradient."""
    parameters = [torch.zeros(BUCKET), torch.zeros(2, BUCKET // 2).T, torch.zeros(3), torch.zeros(()), torch.zeros(5)]
    shares = Shares(dict.fromkeys(parameters, 1), ranks, divided=True)
    for parameter in parameters:
        parameter.fill_(1 + ranks.rank).requires_grad_()
        parameter.grad = None if parameter.numel() == 5 else torch.zeros_like(parameter)
    shares.spread()
    owner = [1 + index % 2 for index in range(4)] + [1 + ranks.rank]
    assert all(bool((value == number).all()) for value, number in zip(parameters, owner, strict=True))


def in_two(ranks: Ranks, folder: Path) -> None:
    spread_all_forms(ranks)
    for name, changes in KINDS.items():
        for divided in (False, True):
            one = trainer(folder / f"{name}-{divided}", ranks, divided=divided, **changes)
            one.run()
            flat = torch.cat([value.flatten() for value in one.trained.state_dict().values()])
            states = dict(ranks.each({str(ranks.rank): flat}))
            assert torch.equal(states["0"], states["1"])
            kept = [
                *one.averages.state().values(),
                *(v for state in one.optimizer.state.values() for v in state.values()),
            ]
            (folder / f"{name}-{divided}-{ranks.rank}").write_text(str(sum(value.numel() for value in kept)))
    interrupt(folder / "mixed", ranks, divided=True)
    trainer(folder / "mixed", ranks, divided=False).run()
    trainer(folder / "from 3", ranks, divided=False).run()
    trainer(folder / "from 1", ranks, divided=True).run()
    with mock.patch("scm.training.shares.owners", lambda sizes, world: [0] * len(sizes)):
        trainer(folder / "all in rank 0", ranks, divided=True).run()
    fail_in_rank_0(ranks, folder / "snapshot", FileExistsError)
    with mock.patch.object(weights, "save_sealed", side_effect=UserError("the disk is full")):
        fail_in_rank_0(ranks, folder / "checkpoint", UserError)


def fail_in_rank_0(ranks: Ranks, folder: Path, error: type[Exception]) -> None:
    """Trains where rank 0 cannot write; all processes end."""
    one = trainer(folder, ranks, divided=True, stopping=lambda: error is UserError)
    if ranks.rank == 0 and error is FileExistsError:
        folder.mkdir()
        (folder / SNAPSHOTS).write_text("in the way")
    with pytest.raises(UserError if ranks.rank else error) as caught:
        one.run()
    assert str(caught.value) == "rank 1 ends: rank 0 failed, as it explains" or ranks.rank == 0


def interrupt_in_three(ranks: Ranks, folder: Path) -> None:
    interrupt(folder / "from 3", ranks, divided=True)


@pytest.mark.slow
def test_the_bits_are_those_of_undivided_state_and_checkpoints_know_no_processes(tmp_path):
    interrupt(tmp_path / "from 1", ALONE, divided=False)
    together(3, interrupt_in_three, tmp_path)
    together(2, in_two, tmp_path)
    for name in KINDS:
        plain, divided = tmp_path / f"{name}-False", tmp_path / f"{name}-True"
        snapshots = result(plain)
        assert len(snapshots) == 5 and snapshots.keys() == result(divided).keys()
        assert all(sha256(plain / SNAPSHOTS / file) == sha256(divided / SNAPSHOTS / file) for file in snapshots)
        one, other = (weights.load(folder / checkpoint.FILE)[0] for folder in (plain, divided))
        assert equal({"": one}, {"": other})
        whole, first, second = (
            int((tmp_path / f"{name}-{kind}").read_text()) for kind in ("False-0", "True-0", "True-1")
        )
        assert first + second == whole and max(first, second) < 0.51 * whole
    whole = result(tmp_path / "adam-False")
    assert equal(whole, result(tmp_path / "mixed")) and equal(whole, result(tmp_path / "all in rank 0"))
    for name in ("from 1", "from 3"):
        resumed = result(tmp_path / name)
        assert resumed.keys() == whole.keys()
        for file, state in whole.items():
            assert all(torch.allclose(value, resumed[file][key], atol=2e-4) for key, value in state.items()), name
