"""`scm status`: what is trained, selected, measured, published and out of date, in about ten lines."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scm.commands.arguments import command
from scm.errors import UserError, printable

if TYPE_CHECKING:
    from scm.params.project import Project
    from scm.results.reading import Run

NOTHING = "nothing yet"
SHOWN = 4
"""Most stages that the line about what is out of date names."""


def add(commands: argparse._SubParsersAction) -> None:
    summary = "say in ten lines what is trained, selected, measured, published and out of date"
    command(commands, "status", _status, summary, "scm status")


def _status(_: argparse.Namespace) -> int:
    from scm.params.project import Project

    print("\n".join(f"{label:<12}{printable(text)}" for label, text in lines(Project.open())))
    return 0


def lines(project: "Project") -> list[tuple[str, str]]:
    """The lines as labels and texts, read from results/, dvc.lock and a store that is a file.

    Raises:
        UserError: a file is damaged.
    """
    from scm.base.documents import is_there
    from scm.results.provenance import commit_of
    from scm.results.reading import read_run, run_names, run_path

    root, params = project.root, project.params
    names = run_names(list(params.evaluate.models))
    paths = {name: run_path(root, name) for name in names}
    runs = {name: read_run(path) for name, path in paths.items() if is_there(path)}
    stale, begun = _stale(project, names, runs), _begun(root, names)
    commit, dirty = commit_of(root)
    changed = " with uncommitted changes" if commit and dirty else ""
    found = [
        ("project", f"{root}: preset {params.preset}, {f'commit {commit[:10]}{changed}' if commit else 'no commit'}"),
        ("data", _data(root)),
        ("trained", _joined(_trained(runs, params.evaluate.models))),
        ("selected", _joined(_selected(root, params.evaluate.models, runs))),
        ("measured", _joined(_measured(root, params.evaluate.models))),
        *(("unhealthy", text) for text in _unhealthy(runs)),
        ("report", "results/report.html" if is_there(root / "results/report.html") else NOTHING),
        ("published", _published(project)),
        *((("begun", f"{', '.join(begun)}: `scm run` goes on with it"),) if begun else ()),
        ("out of date", _told(stale, len(names))),
    ]
    return found


def _joined(parts: Iterator[str]) -> str:
    return "; ".join(parts) or NOTHING


def _data(root: Path) -> str:
    from scm.base.documents import is_there
    from scm.report import data

    if not is_there(root / data.FOLDER / "data.json"):
        return NOTHING
    return data.sentence(data.read(root)).partition(";")[0] + f" ({data.FOLDER}/contact.png)"


def _trained(runs: "dict[str, Run]", models: tuple[str, ...]) -> Iterator[str]:
    from scm.base.project import TEACHER

    for model in models:
        name, key = ("train_teacher", TEACHER) if model == TEACHER else (f"train_student@{model}", "student")
        if name in runs:
            chain, ended = runs[name]["chain"], runs[name]["ended"][:16].replace("T", " ")
            images = chain.get(f"{key}.images")
            yield f"{model} ({'imported' if images is None else f'{images} images'}, {ended} UTC)"


def _selected(root: Path, models: tuple[str, ...], runs: "dict[str, Run]") -> Iterator[str]:
    """What selection chose for each model."""
    from scm.base.documents import is_there
    from scm.results.reading import metrics_path, read_figures

    for model in models:
        run = runs.get(f"select_ema@{model}")
        # An earlier version wrote the choice into results/metrics.
        if (run and run.get("figures")) or is_there(metrics_path(root, "select_ema", model)):
            figures = read_figures(root, "select_ema", model)
            yield _shown(model, figures, ["sigma_rel", "guidance", "t_mid"])


def _measured(root: Path, models: tuple[str, ...]) -> Iterator[str]:
    """What evaluation measured, for each model."""
    from scm.base.documents import is_there
    from scm.results.reading import measured_evaluations, metrics_path, read_numbers

    for model in models:
        if is_there(path := metrics_path(root, "evaluate", model)):
            figures = read_numbers(path)
            yield _shown(model, figures, [f"fd@{evaluations}" for evaluations in measured_evaluations(figures)])


def _shown(model: str, figures: "dict[str, float]", keys: list[str]) -> str:
    return f"{model} {', '.join(f'{key} {figures[key]:.3g}' for key in keys if key in figures)}"


def _unhealthy(runs: "dict[str, Run]") -> Iterator[str]:
    found = [f"{name}: {line}" for name, run in runs.items() for line in run.get("health", ())]
    if found:
        yield found[0] + (f" (and {len(found) - 1} more in the report)" if found[1:] else "")


def _begun(root: Path, names: list[str]) -> list[str]:
    """Stages that have kept unfinished work, or that run now."""
    from scm.pipeline.stage import FINISHED

    return [
        name
        for name in names
        if any(not entry.name.endswith(FINISHED) for entry in (root / ".work" / name).glob("*") if entry.is_dir())
    ]


def _stale(project: "Project", names: list[str], runs: "dict[str, Run]") -> dict[str, str]:
    """Stages that `scm run` would look at again, with the reason: a change of their own, or of a stage before them."""
    from scm.params import dump
    from scm.results.fingerprint import Files, outputs_of_stages

    root = project.root
    files, plain = Files(root), dump(project.params)
    makers = {path: name for name, outputs in outputs_of_stages(root).items() for path in outputs}
    found: dict[str, str] = {}
    for name in names:
        stage, _, item = name.partition("@")
        if name not in runs:
            known = name in makers.values()
            found[name] = "its run file is not here: `dvc pull`, or `scm run`" if known else "never run"
        elif not files.is_frozen(stage):
            try:
                now = files.inputs_of(stage, item or None, plain, root / ".work" / "hashes")
            except UserError as error:
                found[name] = str(error)
                continue
            before = [makers[path] for path in now.dependencies if makers.get(path) in found]
            if now.key != runs[name]["key"]:
                found[name] = _change(runs[name], now)
            elif before:
                found[name] = ""
    return found


def _change(run: "Run", now: Any) -> str:
    """The first thing in which a stage's inputs differ from those of its run."""
    from scm.presets.changes import changes

    told = changes(run["params"], now.params)
    deps = run.get("deps") or {}
    told += sorted(path for path in {**deps, **now.dependencies} if deps.get(path) != now.dependencies.get(path))
    return told[0] if told else "dvc.yaml"


def _told(stale: dict[str, str], count: int) -> str:
    if not stale:
        return "nothing"
    own = [f"{name} ({reason})" for name, reason in stale.items() if reason]
    more = f" and {len(own) - SHOWN} more" if len(own) > SHOWN else ""
    after = f", and {len(stale) - len(own)} after them" if len(own) < len(stale) else ""
    return f"{len(stale)} of {count} stages: {', '.join(own[:SHOWN])}{more}{after} (`scm plan` says more)"


def _published(project: "Project") -> str:
    """The champion: from a store that is a file, else as the last `scm publish` of this folder left it."""
    import json
    import sqlite3

    from scm.base.documents import is_there
    from scm.publishing import verdict
    from scm.tracking.registry import CHAMPION
    from scm.tracking.sqlite_store import tags_of_holder

    settings, name, record = project.tracking, project.params.registered_name, verdict.files(project.root)[0]
    if not settings.enabled:
        return "nowhere, as mlflow.enabled is false"
    file = settings.store_file
    if file is not None:
        try:
            found = tags_of_holder(file, name, CHAMPION) if is_there(file) else None
        except sqlite3.Error as error:
            return f"{file} cannot be read ({error})"
        if found is None:
            return NOTHING
        number, tags = found
        fd = f"fd@{tags.get('scm.evaluations')} {tags.get('scm.fd')}"
        return f"{name} version {number}: {tags.get('scm.model')}, {fd}, commit {tags.get('scm.commit', '')[:10]}"
    if not is_there(record):
        return f"not known here: `scm champion` asks {settings.shown}"
    said = json.loads(record.read_text(encoding="utf-8"))
    return f"{said['name']}, last verdict here: {said['kind']}; `scm champion` asks {settings.shown}"
