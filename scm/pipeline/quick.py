"""`scm run --quick`: the present project with all budgets scaled, in a copy of it that leaves its files alone.

The copy lies in .work/quick-FACTOR/clone, uses the project's cache, and stays until the same command makes it anew, so
that its report can be read and its models can be sampled. An interrupted run goes on: trainings resume from the
project's .work, and finished stages come from the cache. Everything that shows a result calls it by `named`: the preset
of the copy's params.yaml, hence its report, its MLflow experiment, its runs and its registered models.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scm.base.yaml_files import read_mapping, read_text
from scm.params import dump, validate
from scm.params.project import Project
from scm.params.scaling import scaled
from scm.pipeline import clone, supervisor
from scm.pipeline.dvc_command import dvc
from scm.presets.editing import laid_out
from scm.presets.overlays import RESTORE
from scm.results.fingerprint import defined_stages
from scm.tracking.records import experiment_name

TEACHER_CURVE = Path("results/curves/train-teacher.csv")


def named(name: str, factor: float) -> str:
    """What a quick run calls a preset, an experiment or a model of the project."""
    return f"{name} · quick {factor:g}"


def place(root: Path, factor: float) -> Path:
    """The folder of the copy."""
    return clone.place(root, _purpose(factor))


def run(project: Project, factor: float, arguments: Sequence[str], parallel: bool = False) -> int:
    """Runs `dvc repro` in the scaled copy; returns its exit code, as `supervisor.run` does.

    Raises:
        UserError: the project is no git repository, the same quick run is in progress, or the scaled values are
            impossible.
    """
    root, source = project.root, project.root / "params.yaml"
    values, told = values_of(project, factor)
    text = laid_out(read_text(source, RESTORE), values, str(source))
    for line in told:
        print(f"scm run: {line}", file=sys.stderr)
    with _copy(project, _purpose(factor)) as copy:
        copy.write(text)
        print(f"scm run: quick {factor:g} in {copy.folder}", flush=True)
        environment = {"DVC_ROOT": str(root)}
        return supervisor.run(arguments, root=copy.folder, parallel=parallel, environment=environment)


def values_of(project: Project, factor: float) -> tuple[dict[str, Any], list[str]]:
    """The project's values with all budgets scaled and names of their own, and what does not follow the factor."""
    found = scaled(read_mapping(project.root / "params.yaml", RESTORE), factor)
    experiment = experiment_name(project.tracking, project.params.preset)
    own: Mapping[str, Mapping[str, Any]] = {
        "mlflow": {"experiment": named(experiment, factor)},
        "publish": {"name": None},
    }
    values = found.values | {name: {**found.values[name], **keys} for name, keys in own.items()}
    values["preset"] = named(project.params.preset, factor)
    validate(values, f"{project.root / 'params.yaml'}, scaled by {factor:g}")
    return values, found.told


def _purpose(factor: float) -> str:
    return f"quick-{factor:g}"


@contextmanager
def _copy(project: Project, purpose: str) -> Iterator[clone.Clone]:
    """A copy of the project that stays, with an imported teacher but no other result."""
    with clone.clone(project.root, project.params.data.path, purpose, keep=True) as copy:
        copy.link(dump(project.params))
        imported = defined_stages(copy.folder).get("train_teacher", {}).get("frozen")
        _forget_results(copy.folder, keep=TEACHER_CURVE if imported else None)
        if imported:
            dvc(copy.folder, "checkout", "--force", "--quiet", "train_teacher")
        yield copy


def _forget_results(folder: Path, keep: Path | None) -> None:
    """Removes the results that git keeps, which are those of the whole project."""
    for parent, _, names in os.walk(folder / "results"):
        for path in (Path(parent, name) for name in names if name != ".gitignore"):
            if keep is None or path != folder / keep:
                path.unlink()
