"""What `scm run` would do, and why, without doing it: each stage is up to date, restored by the run cache, or runs.

`dvc status` and `dvc repro --dry` fall short of that: they look at each stage as the files lie, so that what follows
from a stage that would run is not in them, and on a fresh clone, where nothing is that DVC keeps, every stage counts
as changed. Here DVC compares single files and parameters with dvc.lock, and this module draws the conclusions:

- What a stage makes is foretold: dvc.lock's hashes if it is up to date, the run cache's if they come from there,
  unknown if it runs. A stage that reads what is unknown counts as running, though DVC skips it if nothing new comes.
- An output in DVC's care that is not here is no reason to run: `dvc pull` brings it. So this is the plan of
  `scm run --pull --allow-missing`, which is the same as `scm run` where everything is here.
- Images that are not here are a reason, since they may be others, unless a .dvc file knows their hash or the user says
  that they are the same. (DVC, pulling, looks over a folder of images that is not there at all.)

Nothing is written but DVC's own notes of hashes. Nothing else imports dvc.
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scm.errors import UserError
from scm.params import Params, flatten

if TYPE_CHECKING:
    from dvc.dependency import Dependency
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

UP_TO_DATE, RESTORED, RUNS = "up to date", "restored", "runs"
PULL, CHECKOUT = "dvc pull", "dvc checkout"
UPSTREAM = "upstream: "
"""Begins a reason that names another stage."""
_ABSENT = object()


@dataclass(frozen=True)
class Step:
    """One stage of the plan.

    Attributes:
        name: e.g. train_student@scd.
        status: UP_TO_DATE, RESTORED or RUNS.
        reasons: why it is not up to date, each "kind: text"; kinds are never run, dvc.yaml, params, code, data,
            upstream and outputs.
        missing: of a stage that is up to date, the command that brings those of its outputs that are not here, or None.
        params: flat values that it would run with.
    """

    name: str
    status: str
    reasons: list[str] = field(default_factory=list)
    missing: str | None = None
    params: dict[str, Any] = field(default_factory=dict)


def plan(root: Path, params: Params, assume_data: bool = False) -> list[Step]:
    """All stages in an order in which they can run.

    Args:
        root: the project's folder.
        params: of its params.yaml.
        assume_data: take images that are not here for those that dvc.lock knows.

    Raises:
        UserError: where DVC cannot read the project, or a file that a stage reads.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        with warnings.catch_warnings(), closing(Repo(str(root))) as repo:
            # DVC 3.67 asks pygtrie for a value in a way that pygtrie deprecates; nothing that we could do differently.
            warnings.filterwarnings("ignore", message="_NoneStep.value will soon raise", category=DeprecationWarning)
            return list(_Planner(repo, params.data.path, assume_data).steps())
    except (DvcException, SCMError, OSError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"dvc cannot read {root} ({text}): correct it, or see what `dvc status` says") from None


class _Planner:
    """Goes through the stages; what each of them would leave is known to those after it."""

    def __init__(self, repo: "Repo", data: str, assume_data: bool) -> None:
        self._repo, self._data, self._assume_data = repo, data, assume_data
        self._makers: dict[str, tuple[Any, Output]] = {
            out.fs_path: (stage, out) for stage in repo.index.stages for out in stage.outs
        }
        self._foretold: dict[str, Output | None] = {}
        self._status: dict[str, str] = {}

    def steps(self) -> Iterator[Step]:
        from dvc.repo.reproduce import get_active_graph, plan_repro
        from dvc.stage import PipelineStage

        wanted = self._repo.stage.collect(str(Path(self._repo.root_dir) / "dvc.yaml"))
        for stage in plan_repro(get_active_graph(self._repo.index.graph), list(wanted)):
            if isinstance(stage, PipelineStage):
                yield self._step(stage)

    def _step(self, stage: "PipelineStage") -> Step:
        inputs, (outputs, missing) = self._input_reasons(stage), _output_reasons(stage)
        reasons = inputs or outputs
        status, made = UP_TO_DATE, stage.outs
        if reasons:
            found = self._cached(stage, bool(inputs))
            status, made = (RUNS, ()) if found is None else (RESTORED, found)
        by_path = {out.fs_path: out for out in made}
        self._foretold |= {out.fs_path: by_path.get(out.fs_path) for out in stage.outs}
        self._status[str(stage.name)] = status
        values = {key: value for dep in stage.params for key, value in flatten(dep.read_params()).items()}
        return Step(str(stage.name), status, reasons, missing if status == UP_TO_DATE else None, values)

    def _input_reasons(self, stage: "PipelineStage") -> list[str]:
        if not any(item.hash_info for item in (*stage.deps, *stage.outs)):
            return ["never run: dvc.lock does not know it"]
        reasons = ["dvc.yaml: its command changed"] if stage.cmd_changed else []
        if stage.frozen:
            return reasons
        for dep in stage.params:
            reasons += [f"params: {change}" for change in _changed_params(dep)]
        found = [self._dep_reason(dep) for dep in _files(stage)]
        reasons += sorted(text for text in found if isinstance(text, str))
        for name in sorted({name for names in found if isinstance(names, tuple) for name in names}):
            silent = self._status[name] == UP_TO_DATE
            reasons.append(f"{UPSTREAM}{name}" + (" has another result than this stage has read" if silent else ""))
        return reasons

    def _dep_reason(self, dep: "Dependency") -> str | tuple[str, ...] | None:
        """What is new about something that a stage reads; names of stages if they make it anew."""
        from dvc.stage import PipelineStage

        makers = self._makers_of(dep)
        names = tuple(str(stage.name) for stage, out in makers if self._makes_anew(stage, out, dep))
        if names:
            return names
        if not makers or not isinstance(makers[0][0], PipelineStage):
            return self._read_reason(dep, makers[0][1] if makers else None)
        if not dep.hash_info:
            return f"dvc.yaml: {dep.def_path} is a new dependency"
        whole = all(out.exists for _, out in makers)
        folder = any(out.fs_path != dep.fs_path for _, out in makers)
        return f"outputs: {dep.def_path} was changed" if folder and whole and dep.workspace_status() else None

    def _makers_of(self, dep: "Dependency") -> "list[tuple[Any, Output]]":
        """Stages, and .dvc files, whose outputs are the dependency, lie in it or contain it."""
        if dep.fs_path in self._makers:
            return [self._makers[dep.fs_path]]
        return [
            made for path, made in self._makers.items() if _contains(dep.fs_path, path) or _contains(path, dep.fs_path)
        ]

    def _makes_anew(self, stage: Any, out: "Output", dep: "Dependency") -> bool:
        """Whether the stage would leave something else than what dvc.lock says that the dependency was."""
        if out.fs_path not in self._foretold:
            return False
        made = self._foretold[out.fs_path]
        before = dep.hash_info if out.fs_path == dep.fs_path else out.hash_info
        return made is None or bool(before and made.hash_info != before)

    def _read_reason(self, dep: "Dependency", tracked: "Output | None") -> str | None:
        """Of what no stage makes: code, and data, which a .dvc file (`tracked`) may know."""
        path = dep.def_path
        kind = "data" if path == self._data else "code"
        if kind == "code" and tracked is None:
            if not dep.exists:
                return f"code: {path} is missing"
            if not dep.hash_info:
                return f"dvc.yaml: {path} is a new dependency"
            return f"code: {path}" if dep.workspace_status() else None
        wanted = tracked.hash_info if tracked is not None and tracked.fs_path == dep.fs_path else None
        if tracked is not None and wanted and wanted != dep.hash_info:  # whatever lies there: a pull brings new ones
            return f"{kind}: {path} changed ({tracked.stage.path_in_repo} has another hash)"
        if dep.exists and not dep.workspace_status():
            return None
        if dep.exists and _holds_something(Path(dep.fs_path)):
            return f"{kind}: {path} changed"
        if wanted:
            return None
        if self._assume_data and dep.hash_info:
            return None
        return f"{kind}: {path} is not here" + (" (--assume-data: as dvc.lock has it)" if dep.hash_info else "")

    def _cached(self, stage: "PipelineStage", inputs_changed: bool) -> "Sequence[Output] | None":
        """Outputs that DVC would give back without running the stage; None if it would run it."""
        from dvc.output import loadd_from
        from dvc.stage.serialize import to_single_stage_lockfile
        from dvc.utils import dict_sha256
        from dvc.utils.serialize import load_yaml

        if inputs_changed and not self._fill_in(stage):
            return None
        entry = to_single_stage_lockfile(stage)
        if inputs_changed:  # DVC's key: all but the outputs' hashes, sizes left out
            key = dict_sha256(
                {**entry, "outs": [out["path"] for out in entry.get("outs", ())]}, exclude=["size", "nfiles"]
            )
            folder = Path(self._repo.stage_cache.cache_dir) / key[:2] / key
            entries = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime)
            if not entries:
                return None
            entry = load_yaml(entries[-1])
        outs = [{**out, "path": str(Path(stage.wdir) / out["path"])} for out in entry.get("outs", ())]
        made = loadd_from(stage, outs) if all("md5" in out for out in outs) else []
        return made if made and not any(out.changed_cache() for out in made) else None

    def _fill_in(self, stage: "PipelineStage") -> bool:
        """Puts the hashes that the inputs would have in place of dvc.lock's; False where one cannot be known."""
        for dep in stage.params:
            if set(dep.params) - dep.read_params().keys():
                return False
            dep.save()
        for dep in _files(stage):
            makers = self._makers_of(dep)
            made = self._foretold.get(dep.fs_path) or _to_come(dep, makers)
            if made is not None and made.meta is not None:
                dep.hash_name, dep.hash_info, dep.meta = made.hash_name, made.hash_info, made.meta
            elif any(self._makes_anew(maker, out, dep) for maker, out in makers) or not dep.exists:
                return False
            else:
                dep.save()
        return True


def _to_come(dep: "Dependency", makers: "Sequence[tuple[Any, Output]]") -> "Output | None":
    """What a .dvc file says that will lie here once it is pulled, where other things do now or nothing."""
    from dvc.stage import PipelineStage

    for maker, out in makers:
        if out.fs_path == dep.fs_path and not isinstance(maker, PipelineStage) and out.hash_info:
            return out if out.hash_info != dep.hash_info or not dep.exists else None
    return None


def _files(stage: "PipelineStage") -> "list[Dependency]":
    return [dep for dep in stage.deps if dep not in stage.params]


def _changed_params(dep: Any) -> Iterator[str]:
    """Each value that is not dvc.lock's, "key: old -> new"; what differs is DVC's to say (for it 1 is 1.0 and true)."""
    before, after = dep.hash_info.value or {}, dep.read_params()
    for key in dep.params:
        if before.get(key, _ABSENT) != after.get(key, _ABSENT):
            yield from _differences(key, before.get(key, _ABSENT), after.get(key, _ABSENT))


def _differences(key: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for inner in sorted({*old, *new}):
            yield from _differences(f"{key}.{inner}", old.get(inner, _ABSENT), new.get(inner, _ABSENT))
    elif old != new:
        yield f"{key}: {_shown(old)} -> {_shown(new)}"


def _shown(value: object) -> str:
    return "(not there)" if value is _ABSENT else value if isinstance(value, str) else json.dumps(value)


def _output_reasons(stage: "PipelineStage") -> tuple[list[str], str | None]:
    """Outputs that have to be made again, and the command that brings those that are only not here."""
    reasons, missing = [], None
    for out in stage.outs:
        if not out.hash_info:
            reasons.append(f"dvc.yaml: {out.def_path} is a new output")
        elif not out.exists and not out.use_cache:
            reasons.append(f"outputs: {out.def_path} is missing, which git keeps")
        elif out.exists and out.workspace_status():
            reasons.append(f"outputs: {out.def_path} was changed")
        elif out.use_cache and out.changed_cache():
            missing = PULL
        elif not out.exists:
            missing = missing or CHECKOUT
    return reasons, missing


def _contains(folder: str, path: str) -> bool:
    return path.startswith(folder + os.sep)


def _holds_something(path: Path) -> bool:
    """Whether a file, or a folder with more than hidden files: git may keep an empty one by its .gitignore."""
    return not path.is_dir() or any(not entry.name.startswith(".") for entry in path.iterdir())
