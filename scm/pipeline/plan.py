"""Plans `scm run`: for each stage, that it is up to date, comes from the run cache, or runs, and why.

`dvc status` and `dvc repro --dry` answer less. They compare each stage with the files that lie there, so they miss what
follows from a stage that would run; and on a fresh clone, which has none of DVC's files, they call every stage changed.
Here DVC compares single files and parameters with dvc.lock, and this module draws the conclusions:

- The outputs of each stage are predicted: dvc.lock's hashes if the stage is up to date, the run cache's if its outputs
  come from there, unknown if it runs. A stage that reads something unknown counts as running; DVC will skip it if the
  content turns out to be the same.
- A missing output in DVC's care is no reason to run: `dvc pull` brings it. So this is the plan of
  `scm run --pull --allow-missing`, which equals the plan of `scm run` if nothing is missing.
- Missing images are a reason to run, since they may be others, unless a .dvc file knows their hash or the user says
  that they are the same. (`dvc repro --pull` ignores a folder of images that is missing as a whole.)

Nothing is written but DVC's own cache of file hashes. No module imports dvc but this one and `unchanged`, which knows a
project where nothing has changed without importing it.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scm.errors import UserError
from scm.params import flatten
from scm.params.project import Project
from scm.pipeline.dvc_command import check_repository
from scm.pipeline.unchanged import unchanged_stages
from scm.presets.changes import ABSENT, changes
from scm.results.fingerprint import check_files

if TYPE_CHECKING:
    from dvc.dependency import Dependency
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

UP_TO_DATE, RESTORED, RUNS = "up to date", "restored", "runs"
PULL, CHECKOUT = "dvc pull", "dvc checkout"
UPSTREAM = "upstream: "
"""Beginning of a reason that names another stage."""


@dataclass(frozen=True)
class Step:
    """One stage of the plan.

    Each of `reasons` says "kind: text"; kinds are never run, dvc.yaml, params, code, data, upstream and outputs.
    """

    name: str  # e.g. train_student@scd
    status: str  # UP_TO_DATE, RESTORED or RUNS
    reasons: list[str] = field(default_factory=list)  # why it is not up to date
    missing: str | None = None  # the command that brings missing outputs of a stage that is up to date
    params: dict[str, Any] = field(default_factory=dict)  # flat values that the stage would run with


def plan(project: Project, assume_data: bool = False) -> list[Step]:
    """Plans all stages, in an order in which they can run.

    Args:
        assume_data: take missing images for those that dvc.lock knows.

    Raises:
        UserError: DVC cannot read the project, or a file that a stage reads.
    """
    names = unchanged_stages(project.root)
    if names is not None:
        return [Step(name, UP_TO_DATE) for name in names]
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    check_repository(project.root)
    check_files(project.root)
    try:
        with warnings.catch_warnings(), closing(Repo(str(project.root))) as repo:
            # DVC 3.67 calls pygtrie in a way that pygtrie deprecates; we cannot avoid it.
            warnings.filterwarnings("ignore", message="_NoneStep.value will soon raise", category=DeprecationWarning)
            return list(_Planner(repo, project.params.data.path, assume_data).steps())
    except (DvcException, SCMError, OSError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"dvc cannot read {project.root} ({text}): correct it, or see what `dvc status` says") from None


class _Planner:
    """Walks through the stages in order, and remembers what each would leave for the stages after it."""

    def __init__(self, repo: "Repo", data: str, assume_data: bool) -> None:
        self._repo, self._assume_data = repo, assume_data
        self._data = os.path.realpath(Path(repo.root_dir, data))
        self._makers: dict[str, tuple[Any, Output]] = {
            out.fs_path: (stage, out) for stage in repo.index.stages for out in stage.outs
        }
        self._foretold: dict[str, Output | None] = {}
        self._status: dict[str, str] = {}
        self._values: dict[int, dict[str, Any]] = {}

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
        values = {key: value for dep in stage.params for key, value in flatten(self._params_of(dep)).items()}
        return Step(str(stage.name), status, reasons, missing if status == UP_TO_DATE else None, values)

    def _input_reasons(self, stage: "PipelineStage") -> list[str]:
        if not any(item.hash_info for item in (*stage.deps, *stage.outs)):
            return ["never run: dvc.lock does not know it"]
        reasons = ["dvc.yaml: its command changed"] if stage.cmd_changed else []
        if stage.frozen:
            return reasons
        for dep in stage.params:
            reasons += [f"params: {change}" for change in _changed_params(dep, self._params_of(dep))]
        found = [self._dep_reason(dep) for dep in _files(stage)]
        reasons += sorted(text for text in found if isinstance(text, str))
        for name in sorted({name for names in found if isinstance(names, tuple) for name in names}):
            silent = self._status[name] == UP_TO_DATE
            reasons.append(f"{UPSTREAM}{name}" + (" has another result than this stage has read" if silent else ""))
        return reasons

    def _params_of(self, dep: Any) -> Any:
        """The values of a stage's parameters. DVC reads and searches their file anew each time, so they are kept."""
        if id(dep) not in self._values:
            self._values[id(dep)] = dep.read_params()
        return self._values[id(dep)]

    def _dep_reason(self, dep: "Dependency") -> str | tuple[str, ...] | None:
        """Says what changed in a dependency, or names the stages that would make it anew."""
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
        """Stages and .dvc files with an output that is the dependency, lies in it or contains it."""
        if dep.fs_path in self._makers:
            return [self._makers[dep.fs_path]]
        own = dep.fs_path
        return [made for path, made in self._makers.items() if _contains(own, path) or _contains(path, own)]

    def _makes_anew(self, stage: Any, out: "Output", dep: "Dependency") -> bool:
        """True if the stage would leave other content than dvc.lock recorded for the dependency."""
        if out.fs_path not in self._foretold:
            return False
        made = self._foretold[out.fs_path]
        before = dep.hash_info if out.fs_path == dep.fs_path else out.hash_info
        return made is None or bool(before and made.hash_info != before)

    def _read_reason(self, dep: "Dependency", tracked: "Output | None") -> str | None:
        """Says what is new about code, or about data that a .dvc file (`tracked`) may know: no stage makes either."""
        path = dep.def_path
        kind = "data" if os.path.realpath(dep.fs_path) == self._data else "code"
        if kind == "code" and tracked is None:
            if not dep.exists:
                return f"code: {path} is missing"
            if not dep.hash_info:
                return f"dvc.yaml: {path} is a new dependency"
            return f"code: {path}" if dep.workspace_status() else None
        wanted = tracked.hash_info if tracked is not None and tracked.fs_path == dep.fs_path else None
        if tracked is not None and wanted and wanted != dep.hash_info:  # whatever lies there now, a pull replaces it
            return f"{kind}: {path} changed ({tracked.stage.path_in_repo} has another hash)"
        if dep.exists and not dep.workspace_status():
            return None
        if dep.exists and _holds_something(Path(dep.fs_path)):
            return f"{kind}: {path} changed"
        if wanted or (self._assume_data and dep.hash_info):
            return None
        return f"{kind}: {path} is not here" + (" (--assume-data: as dvc.lock has it)" if dep.hash_info else "")

    def _cached(self, stage: "PipelineStage", inputs_changed: bool) -> "Sequence[Output] | None":
        """Outputs that DVC would restore without running the stage; None if the stage would run."""
        from dvc.output import loadd_from
        from dvc.stage.serialize import to_single_stage_lockfile
        from dvc.utils import dict_sha256
        from dvc.utils.serialize import load_yaml

        if inputs_changed and not self._fill_in(stage):
            return None
        entry = to_single_stage_lockfile(stage)
        if inputs_changed:  # DVC's key: all but the outputs' hashes, sizes left out
            paths = [out["path"] for out in entry.get("outs", ())]
            key = dict_sha256({**entry, "outs": paths}, exclude=["size", "nfiles"])
            folder = Path(self._repo.stage_cache.cache_dir) / key[:2] / key
            entries = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime)
            if not entries:
                return None
            entry = load_yaml(entries[-1])
        outs = [{**out, "path": str(Path(stage.wdir) / out["path"])} for out in entry.get("outs", ())]
        made = loadd_from(stage, outs) if all("md5" in out for out in outs) else []
        return made if made and not any(out.changed_cache() for out in made) else None

    def _fill_in(self, stage: "PipelineStage") -> bool:
        """Replaces dvc.lock's hashes of the inputs by those that they would have; False if one cannot be known."""
        from dvc_data.hashfile.hash_info import HashInfo

        for dep in stage.params:
            if set(dep.params) - self._params_of(dep).keys():
                return False
            dep.hash_info = HashInfo(dep.PARAM_PARAMS, self._params_of(dep))  # as dep.save() does
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
    """The output that a .dvc file would pull to this place, if something else or nothing lies there now."""
    from dvc.stage import PipelineStage

    for maker, out in makers:
        if out.fs_path == dep.fs_path and not isinstance(maker, PipelineStage) and out.hash_info:
            return out if out.hash_info != dep.hash_info or not dep.exists else None
    return None


def _files(stage: "PipelineStage") -> "list[Dependency]":
    return [dep for dep in stage.deps if dep not in stage.params]


def _changed_params(dep: Any, after: dict[str, Any]) -> Iterator[str]:
    """Yields "key: old -> new" for each value that is not dvc.lock's; DVC says which keys differ (for it 1 is true)."""
    before = dep.hash_info.value or {}
    for key in dep.params:
        if before.get(key, ABSENT) != after.get(key, ABSENT):
            yield from changes(*({key: values[key]} if key in values else {} for values in (before, after)))


def _output_reasons(stage: "PipelineStage") -> tuple[list[str], str | None]:
    """Why outputs must be made again, and the command that restores those that are only missing."""
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
    """True for a file, and for a folder with more than hidden files, such as the .gitignore of an empty one."""
    return not path.is_dir() or any(not entry.name.startswith(".") for entry in path.iterdir())
