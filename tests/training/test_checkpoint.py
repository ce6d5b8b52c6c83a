"""Rank 0 alone reads the checkpoint; the other processes receive the state."""

from pathlib import Path

import pytest

from scm.base.distributed import Ranks
from scm.errors import Interrupted, UserError
from scm.training import checkpoint
from tests.support.loops import equal, result, trainer
from tests.support.processes import together


def interrupt(work: Path, ranks: Ranks) -> None:
    stops = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        trainer(work, stopping=lambda: next(stops), ranks=ranks).run()


def own(folder: Path, ranks: Ranks) -> Path:
    """The work folder of this process's machine."""
    return folder / str(ranks.rank)


def resume_on_machines(ranks: Ranks, folder: Path) -> None:
    """Each process has a disk of its own; the processes' messages go to files."""
    trainer(own(folder / "whole", ranks), ranks=ranks).run()
    interrupt(own(folder / "parts", ranks), ranks)
    trainer(own(folder / "parts", ranks), ranks=ranks).run()

    interrupt(own(folder / "damaged", ranks), ranks)
    if ranks.rank == 0:
        with (folder / "damaged/0" / checkpoint.FILE).open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")
    ranks.wait()
    for name, work in (
        ("damaged", own(folder / "damaged", ranks)),
        ("swapped", folder / "parts" / str(1 - ranks.rank)),
    ):
        with pytest.raises(UserError) as error:
            trainer(work, ranks=ranks).run()
        (folder / f"{name}-{ranks.rank}").write_text(str(error.value))


@pytest.mark.slow
def test_the_first_machines_checkpoint_is_enough(tmp_path):
    together(2, resume_on_machines, tmp_path)
    assert sorted(path.name for path in (tmp_path / "parts").rglob("checkpoint*")) == [checkpoint.FILE]
    assert len(result(tmp_path / "whole/0")) == 8
    assert equal(result(tmp_path / "whole/0"), result(tmp_path / "parts/0"))
    file = tmp_path / "damaged/0" / checkpoint.FILE
    assert (tmp_path / "damaged-0").read_text().startswith(f"{file} is damaged: delete {tmp_path}/damaged/0 and run")
    assert (tmp_path / "damaged-1").read_text() == "rank 1 ends: rank 0 failed, as it explains"
    for rank in (0, 1):
        told = (tmp_path / f"swapped-{rank}").read_text()
        assert told.endswith(
            f"{checkpoint.FILE} is not on the first machine, but on another one: move it there, or set SCM_WORK to a "
            "folder that all machines see"
        )
