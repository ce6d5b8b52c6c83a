"""The two sides of a comparison: results of the working tree, of a commit, of an experiment or of a registered version.

Each side is a folder with dvc.yaml, dvc.lock, params.yaml and results/metrics: the project's own, or a temporary one
with the files of a commit, which git keeps; pictures come from DVC's cache. The parameters are those of dvc.lock, which
the figures were made with, whatever params.yaml says by now.
"""

import difflib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scm.base.files import write_text
from scm.base.yaml_files import parse_mapping, read_mapping
from scm.comparison.cache import missing_outputs
from scm.errors import UserError
from scm.params import flatten
from scm.params.project import Project
from scm.pipeline.dvc_command import git
from scm.publishing.entry import Entry, entry_of
from scm.publishing.publish import kept_file, require_registry
from scm.results.fingerprint import LockedStage, parse_lock, read_lock
from scm.results.provenance import git_fault, in_repository
from scm.results.reading import metrics_path, read_figures
from scm.study.experiments import finished, unpacked
from scm.tracking.registry import Registry
from scm.tracking.store import answered, connect, is_new

EVALUATED = ":(glob)results/metrics/evaluate-*.json"
"""What git calls the figures of all models."""
FILES = ("dvc.yaml", "dvc.lock", "params.yaml", "results/metrics")
VERSION = re.compile(r"(?:models:/(?P<name>[^/@]+))?(?:@(?P<alias>[^/@]+)|/(?P<number>[1-9]\d*))")
"""A version as MLflow writes it: models:/digits/3, models:/digits@champion; @champion is the project's own."""
WORKING_TREE = "working tree"
SHORT = 10
"""Digits of a commit that are shown."""


@dataclass(frozen=True)
class Side:
    """One of the two results.

    Attributes:
        name: how people call it, e.g. "HEAD".
        told: where it comes from, in a few words.
        folder: holds the files that it was read from.
        preset: the preset of its params.yaml.
        figures: of each model that was evaluated, in the order of evaluate.models.
        stages: of its dvc.lock, by name.
        doubts: sentences about what is missing or does not fit together.
    """

    name: str
    told: str
    folder: Path
    preset: str
    figures: Mapping[str, Mapping[str, float]]
    stages: Mapping[str, LockedStage]
    doubts: tuple[str, ...] = ()

    def params(self, *stages: str) -> dict[str, Any]:
        """Flat parameters with which these stages were run."""
        found: dict[str, Any] = {}
        for name in stages:
            for values in self.stages.get(name, {}).get("params", {}).values():
                found |= flatten(values)
        return found

    def read(self, stage: str) -> dict[str, str]:
        """Hash of each path that the stage read."""
        return {entry["path"]: entry["md5"] for entry in self.stages.get(stage, {}).get("deps", ()) if "md5" in entry}


@contextmanager
def opened(project: Project, revision: str | None) -> Iterator[Side]:
    """The results of a revision; None = those of the working tree.

    Raises:
        UserError: there is no such revision, or it has no results.
    """
    root = project.root
    if revision is None:
        if not (root / "dvc.lock").is_file():
            raise UserError(f"{root / 'dvc.lock'} is missing, so there are no results here: run `scm run`")
        yield _read(root, root, WORKING_TREE, WORKING_TREE)
        return
    if match := VERSION.fullmatch(revision):
        with _version(project, revision, match) as side:
            yield side
        return
    _check_git(root)
    commit, name = _commit_of(root, revision)
    short, day, subject = git(root, "log", "-1", "--format=%h%n%cs%n%s", commit).stdout.split("\n", 2)
    told = f"{name}{short} of {day}" + (f": {subject.strip()}" if subject.strip() and not name else "")
    held = git(root, "ls-tree", "--name-only", commit, *(f"./{path}" for path in FILES)).stdout.split()
    found = git(root, "ls-tree", "-r", "--name-only", "-z", commit, "./results/metrics").stdout
    if "dvc.lock" not in held or "/evaluate-" not in found:
        what = "dvc.lock" if "dvc.lock" not in held else "results/metrics/evaluate-MODEL.json"
        remedy = "after `scm run`, commit dvc.lock, params.yaml and results; `git log -- results/metrics` lists commits"
        raise UserError(f"{revision} ({short}) has no results, since {what} is not in it: {remedy}")
    with unpacked(root, commit, [path for path in FILES if path in held or path == "results/metrics"]) as folder:
        yield _read(root, folder, revision, told)


def base_of(root: Path) -> str:
    """The revision that the working tree is compared with if none is given.

    It is HEAD if the results differ from it, or else the last commit with other results.
    """
    _check_git(root)
    changed = git(root, "status", "--porcelain", "--untracked-files=all", "--", EVALUATED).stdout
    commits = git(root, "log", "--format=%h", "--", EVALUATED).stdout.split()
    if changed and _has_results(root, "HEAD"):
        return "HEAD"
    for commit in commits if changed else commits[1:]:
        if _has_results(root, commit):
            return commit
    remedy = "commit dvc.lock, params.yaml and results after each `scm run`, or name a revision: `scm compare REV`"
    raise UserError(f"no earlier commit has results (results/metrics/evaluate-MODEL.json) to compare with: {remedy}")


def _has_results(root: Path, commit: str) -> bool:
    return "/evaluate-" in git(root, "ls-tree", "-r", "--name-only", commit, "./results/metrics", check=False).stdout


def _check_git(root: Path) -> None:
    if not in_repository(root):
        raise UserError(f"{root} is in no git repository, so it has no earlier results: run `git init` and commit them")
    if fault := git_fault(root):
        raise UserError(fault)


def _commit_of(root: Path, revision: str) -> tuple[str, str]:
    """The commit of a revision, and words that belong before its hash."""
    if not revision.startswith("-"):
        done = git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False)
        if done.returncode == 0:
            return done.stdout.strip(), ""
    experiments = finished(root)
    if revision in experiments:
        return experiments[revision][0].revision, f"experiment {revision}, "
    refs = git(root, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes").stdout
    close = difflib.get_close_matches(revision, [*refs.split(), *experiments], n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    where = "`git log`, `git branch --all`, `git tag`, `dvc exp list --all` and `scm champion` list them"
    raise UserError(f"{revision}: no such commit, branch, tag, experiment or version (@ALIAS): {meant}{where}")


def _read(root: Path, folder: Path, name: str, told: str) -> Side:
    """Reads the files of a side, after those that git does not keep have come from DVC's cache."""
    stages = read_lock(folder / "dvc.lock")["stages"]
    params = read_mapping(folder / "params.yaml", "restore it with git")
    section = params.get("evaluate")
    listed = section.get("models") if isinstance(section, dict) else None
    models = [str(model) for model in listed or () if f"evaluate@{model}" in stages]
    files = {model: path for model in models if (path := metrics_path(folder, "evaluate", model)).is_file()}
    if not files:
        what = "results/metrics and dvc.lock have no results of the models that its params.yaml lists"
        raise UserError(f"{name}: {what} (evaluate.models): run `scm run` there and commit its results")
    doubts = [*_missing(root, folder, name, stages, [*files]), *_doubts(name, stages, folder, files)]
    figures = {model: read_figures(folder, "evaluate", model, finite=False) for model in files}
    return Side(name, told, folder, str(params.get("preset", "")), figures, stages, tuple(doubts))


def _missing(
    root: Path, folder: Path, name: str, stages: Mapping[str, LockedStage], models: list[str]
) -> Iterator[str]:
    missing, remedy = missing_outputs(root, folder, stages, models)
    if missing:
        yield f"DVC's cache lacks {', '.join(missing)} of {name}, so they are not shown: {remedy}."


def _doubts(name: str, stages: Mapping[str, LockedStage], folder: Path, files: Mapping[str, Path]) -> Iterator[str]:
    for model, path in files.items():
        made = {out["path"]: out.get("md5") for out in stages[f"evaluate@{model}"].get("outs", ())}
        place = path.relative_to(folder).as_posix()
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if made.get(place, found) != found:
            yield f"{name}: {place} is not the file that dvc.lock names, so other parameters may have made it."


@contextmanager
def _version(project: Project, revision: str, match: re.Match[str]) -> Iterator[Side]:
    """The results of a registered version, from its tags and the files that `scm publish` stored with it."""
    require_registry(project)
    if match["name"]:
        settings = project.params.publish.model_copy(update={"name": match["name"]})
        project = replace(project, params=project.params.model_copy(update={"publish": settings}))
    name = project.params.registered_name
    if is_new(project.tracking):
        raise UserError(f"{revision}: {name} has no version yet: run `scm publish`")

    def fetched() -> tuple[Entry, str, str]:
        registry = Registry(connect(project.tracking), name)
        number = match["number"] or registry.holder(match["alias"])
        if number is None:
            raise UserError(f"{revision}: no version of {name} has the alias {match['alias']}: run `scm publish`")
        entry = entry_of(name, registry.version(number))
        return entry, kept_file(project, entry, "dvc.lock"), kept_file(project, entry, "params.yaml")

    entry, lock, params = answered(project.tracking, f"scm compare {revision}", fetched)
    preset = str(parse_mapping(params, f"params.yaml of version {entry.version}").get("preset", ""))
    stages = parse_lock(lock, f"dvc.lock of version {entry.version}", "publish it again")["stages"]
    with tempfile.TemporaryDirectory(prefix="scm-version-") as place:
        folder = Path(place)
        shutil.copy(project.root / "dvc.yaml", folder)
        write_text(folder / "dvc.lock", lock)
        write_text(folder / "params.yaml", params)
        told = f"{name} version {entry.version} of commit {entry.origin.get('commit', '')[:SHORT]}"
        doubts = tuple(_missing(project.root, folder, revision, stages, [entry.model]))
        yield Side(revision, told, folder, preset, {entry.model: entry.figures}, stages, doubts)
