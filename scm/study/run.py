"""`scm study`: runs a study's variants one after the other, draws what has finished, and shows it in MLflow."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scm.base.files import write_text
from scm.base.tables import columns
from scm.charts.panels import draw
from scm.errors import EXIT_INTERRUPTED, UserError
from scm.params import USERS_SECTIONS, Params, flatten, validate
from scm.params.project import Project
from scm.pipeline import clone
from scm.pipeline.supervisor import Sessions
from scm.study import variants
from scm.study.results import VariantResult, page, panels, variant_results
from scm.study.variants import Study
from scm.tracking import sending
from scm.tracking.records import RunRecord


def listing(root: Path) -> list[str]:
    """A line for each study: its name and what it compares."""
    return columns([(name, variants.summary(root, name)) for name in variants.names(root)])


def run_study(project: Project, name: str) -> int:
    """Runs the variants that the present code has not run yet, then draws the study and shows it in MLflow.

    Returns:
        the exit code: 0; 1 if a variant failed; 75 if interrupted, and the same call goes on.

    Raises:
        UserError: the study's file is faulty, or no variant has finished.
    """
    study = variants.read(project.root, name)
    code = _run_variants(project.root, study)
    if code != EXIT_INTERRUPTED:
        results = _draw(project.root, study, remedy="see above why they failed, then run it again")
        show(project, study, results)
    return code


def draw_study(project: Project, name: str) -> int:
    """Like `run_study`, but draws what has finished and runs nothing; returns the exit code, 0."""
    _draw(project.root, variants.read(project.root, name), remedy="run it without --draw")
    return 0


def _run_variants(root: Path, study: Study) -> int:
    """Runs the variants that have no experiment of the present code; returns the exit code.

    A variant that fails does not keep the others from running: a study may show that this variant diverges.
    """
    data = study.variants[0].values["data"]["path"]
    clone.check(root, data)
    done = [result.variant.name for result in variant_results(root, study) if result.current]
    for name in done:
        print(f"scm study: {study.name}, {name}: done before", flush=True)
    left = [variant for variant in study.variants if variant.name not in done]
    if not left:
        return 0
    failed = False
    with clone.clone(root, data) as copy, Sessions(copy.folder) as sessions:
        for variant in left:
            stated = ", ".join(f"{key} = {value}" for key, value in variant.own.items()) or "as params.yaml"
            print(f"scm study: {study.name}, {variant.name}: {stated}", flush=True)
            copy.link(variant.values)
            copy.prepare(variants.write(root, variant.values))
            process = sessions.start(clone.WANTED, {"DVC_ROOT": str(root)})
            code = sessions.outcome(sessions.wait([process]))
            if code == EXIT_INTERRUPTED:
                return code
            if code:
                failed = True
                print(f"scm study: {study.name}, {variant.name}: failed", file=sys.stderr)
            else:
                copy.save(variant.experiment)
    return int(failed)


def _draw(root: Path, study: Study, remedy: str) -> list[VariantResult]:
    """Writes the study's files from the variants that have finished, prints their paths, and returns the results."""
    results = variant_results(root, study)
    if not results:
        raise UserError(f"study {study.name}: no variant has finished with these parameters; {remedy}")
    finished = [result.variant for result in results]
    missing = [variant.name for variant in study.variants if variant not in finished]
    print(*(path.relative_to(root) for path in write_figures(root, study, results, missing)), sep="\n")
    if missing:
        print(f"scm study: missing: {', '.join(missing)}", file=sys.stderr)
    return results


def write_figures(root: Path, study: Study, results: Sequence[VariantResult], missing: Sequence[str]) -> list[Path]:
    """Writes results/studies/<name>.svg, .png and .md; returns their paths."""
    folder = root / "results" / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    svg, png, text = (folder / f"{study.name}.{ending}" for ending in ("svg", "png", "md"))
    draw(study.title, panels(study, results), svg, png)
    write_text(text, page(study, results, missing))
    return [svg, png, text]


def show(project: Project, study: Study, results: Sequence[VariantResult]) -> None:
    """Sends one run for each variant and model to MLflow; a run that MLflow has already stays as it is."""
    for result in results:
        params = validate(result.variant.values, f"variant {result.variant.name}")
        settings = Project(project.root, params).tracking
        settings = replace(settings, experiment=f"{settings.experiment or params.preset} · {study.name}")
        for model in result.metrics:
            if not sending.publish(_record(study, result, model, params), settings):
                return


def _record(study: Study, result: VariantResult, model: str, params: Params) -> RunRecord:
    """What MLflow shows of one model of a variant; times are the experiment's, so that sending again adds nothing."""
    variant, experiment = result.variant, result.experiment
    left_out = ("preset", *USERS_SECTIONS, "student")
    values = {key: value for key, value in variant.values.items() if key not in left_out}
    if model in params.student.methods:
        values["student"] = params.student.lineage(model)
    name = f"{variant.name} · {model}"
    tags = {"preset": params.preset, "study": study.name, "variant": variant.name, "commit": experiment.revision}
    return RunRecord(
        key=hashlib.sha256(f"{experiment.revision} {name}".encode()).hexdigest(),
        name=name,
        stage="study",
        item=model,
        params={**flatten(values), "study": study.name, "variant": variant.name, "model": model},
        tags={f"scm.{key}": value for key, value in tags.items()},
        metrics=result.metrics[model],
        series=[{**row, "time": experiment.time} for row in result.progress[model]],
        status="FINISHED",
        started=experiment.time,
        ended=experiment.time,
    )
