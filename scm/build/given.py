"""Networks that params.yaml names: the one that the teacher starts from, and the one that guides it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scm.base import weights
from scm.ema.reconstruct import snapshots_of
from scm.errors import UserError, printable
from scm.evaluation.selection import Average
from scm.evaluation.weight_files import located, verify
from scm.generation.trained import guided_by
from scm.interop.start import copy_weights
from scm.interop.teachers import Teacher, read_teacher
from scm.networks import Model
from scm.params import Params

WHERE = "docs/teachers.md says what can stand here"
Origin = dict[str, dict[str, str]]
"""The key's last part, and the file behind it as `Teacher.origin` describes it; empty if the key is null."""


def start_teacher(
    root: Path, params: Params, model: Model, codec: dict[str, Any], classes: list[str], say: Callable[[str], None]
) -> Origin:
    """Copies what fits of `teacher.start` into a new teacher.

    Raises:
        UserError: the file is missing or not the one of params.yaml, or its network does not fit network or data.
    """
    given = params.teacher.start
    if given is None:
        return {}
    file, teacher = _read(root, "teacher.start", given, params.teacher.start_sha256, codec, classes)
    copied, *rest = copy_weights(teacher, model, f"teacher.start = {given}").summary()
    say(f"starts from {printable(file.name)} ({teacher.program}): {copied}")
    for line in (*rest, *teacher.notes):
        say(line)
    if teacher.licence is not None:
        say(f"licence of these weights, and of all models made from them: {teacher.licence}")
    return {"start": teacher.origin(file)}


def guide_of(root: Path, params: Params, snapshots: Path) -> tuple[Callable[[Average], Average] | None, Origin]:
    """A function that adds the network of `select.guide` to an average of the teacher's; None if the key is null.

    Raises:
        UserError: as `start_teacher`; but the guide may have any shape, and no classes.
    """
    given = params.select.guide
    if given is None:
        return None, {}
    header = weights.read_header(snapshots_of(snapshots)[0])
    file, guide = _read(root, "select.guide", given, params.select.guide_sha256, header["codec"], header["classes"], 0)
    origin = guide.origin(file)
    entry = {"network": guide.settings.to_dict(), **origin}
    return lambda average: guided_by(*average, guide.state, entry), {"guide": origin}


def _read(
    root: Path, key: str, given: str, sha256: str | None, codec: dict[str, Any], classes: Sequence[str], *fewer: int
) -> tuple[Path, Teacher]:
    """The file under `key`, and its network, which was trained on data of this codec and these classes.

    Args:
        fewer: numbers of classes that the network may have as well.
    """
    file, what = located(key, given, sha256, root, WHERE), f"{key} = {given}"
    verify(file, sha256, f"{key}_sha256")
    teacher = read_teacher(file)
    if not teacher.takes(codec):
        name = next(name for name in codec if teacher.codec.get(name) != codec[name])
        remedy = "change data.resolution or the section codec, or use another file"
        told = f"{name}: {teacher.codec.get(name)}; of the data: {codec[name]}"
        raise UserError(f"{what} was trained on another encoding ({told}): {remedy}")
    number = teacher.settings.classes
    if number not in (len(classes), *fewer):
        raise UserError(f"{what} was trained with {number} classes, the data have {len(classes)}: use another file")
    if teacher.classes and teacher.classes != list(classes):
        raise UserError(f"{what} was trained with classes of other names than the data have: use the same classes")
    return file, teacher
