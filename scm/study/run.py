"""`scm study`: runs a study's variants one after the other, draws what there is, and shows the figures in MLflow."""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from scm.base.files import write_text
from scm.base.project import find_root
from scm.charts.panels import draw
from scm.errors import EXIT_INTERRUPTED, UserError
from scm.params import USERS_SECTIONS, Params, flatten, validate
from scm.pipeline import clone
from scm.pipeline.supervisor import Sessions
from scm.study import variants
from scm.study.results import Outcome, outcomes, page, panels
from scm.study.variants import Study, Variant
from scm.tracking.records import RunRecord, Settings

ENDED_BADLY = 1


def study_command(options: argparse.Namespace) -> int:
    """`scm study [NAME] [--draw]`. Returns the exit code: 75 if interrupted, 1 if a variant failed or is missing."""
    root = find_root()
    if options.name is None or options.list:
        for name in variants.names(root):
            print(f"{name:10} {variants.summary(root, name)}")
        return 0
    study = variants.read(root, options.name)
    code = 0
    if not options.draw:
        code = run(root, study)
        if code == EXIT_INTERRUPTED:
            return code
    results = outcomes(root, study)
    missing = [variant.name for variant in study.variants if variant not in [outcome.variant for outcome in results]]
    if not results:
        remedy = "run it without --draw" if options.draw else "see above why they failed, then run it again"
        raise UserError(f"study {study.name}: no variant has finished with these parameters; {remedy}")
    for path in write_figures(root, study, results, missing):
        print(path.relative_to(root))
    if missing:
        print(f"scm study: missing: {', '.join(missing)}", file=sys.stderr)
    if not options.draw:
        show(root, study, results)
    return code


def run(root: Path, study: Study) -> int:
    """Runs the variants that have no experiment of the present code.

    A variant that fails does not keep the others from running: that one diverges may be what a study shows.

    Returns:
        0; 1 if a variant failed; 75 if interrupted, in which case the same command goes on.
    """
    data = study.variants[0].values["data"]["path"]
    clone.check(root, data)
    done = [outcome.variant.name for outcome in outcomes(root, study) if outcome.current]
    left = [variant for variant in study.variants if variant.name not in done]
    for name in done:
        print(f"scm study: {study.name}, {name}: done before", flush=True)
    failed = []
    if left:
        with clone.clone(root, data) as copy, Sessions(copy.folder) as sessions:
            for variant in left:
                print(f"scm study: {study.name}, {variant.name}: {_shown(variant)}", flush=True)
                copy.prepare(variants.write(variant.values))
                process = sessions.start(clone.WANTED, {"DVC_ROOT": str(root)})
                code = sessions.outcome(sessions.wait([process]))
                if code == EXIT_INTERRUPTED:
                    return code
                if code:
                    failed.append(variant.name)
                    print(f"scm study: {study.name}, {variant.name}: failed", file=sys.stderr)
                else:
                    copy.save(variant.experiment)
    return ENDED_BADLY if failed else 0


def write_figures(root: Path, study: Study, results: Sequence[Outcome], missing: Sequence[str]) -> list[Path]:
    """Writes results/studies/<name>.svg, .png and .md; returns their paths."""
    folder = root / "results" / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    svg, png, text = (folder / f"{study.name}.{ending}" for ending in ("svg", "png", "md"))
    draw(study.title, panels(study, results), svg, png)
    write_text(text, page(study, results, missing))
    return [svg, png, text]


def show(root: Path, study: Study, results: Sequence[Outcome]) -> None:
    """One run in MLflow for each variant and model; what is there already stays as it is."""
    from scm.tracking.sending import publish

    for outcome in results:
        params = validate(outcome.variant.values, f"variant {outcome.variant.name}")
        shown_in = Settings.of(params, root)
        experiment = f"{shown_in.experiment or params.preset} · {study.name}"
        settings = Settings(shown_in.enabled, shown_in.uri, experiment, root)
        for model in outcome.metrics:
            if not publish(_record(study, outcome, model, params), settings):
                return


def _record(study: Study, outcome: Outcome, model: str, params: Params) -> RunRecord:
    """What MLflow shows of one model of a variant; times are the experiment's, so that sending again adds nothing."""
    variant, experiment = outcome.variant, outcome.experiment
    values = {key: value for key, value in variant.values.items() if key not in ("preset", *USERS_SECTIONS)}
    del values["student"]
    if model in params.student.methods:
        values["student"] = params.student.lineage(model)
    name = f"{variant.name} · {model}"
    return RunRecord(
        key=hashlib.sha256(f"{experiment.revision} {name}".encode()).hexdigest(),
        name=name,
        stage="study",
        item=model,
        params={**flatten(values), "study": study.name, "variant": variant.name, "model": model},
        tags={
            "scm.preset": params.preset,
            "scm.study": study.name,
            "scm.variant": variant.name,
            "scm.commit": experiment.revision,
        },
        metrics=outcome.metrics[model],
        series=[{**row, "time": experiment.time} for row in outcome.progress[model]],
        status="FINISHED",
        started=experiment.time,
        ended=experiment.time,
    )


def _shown(variant: Variant) -> str:
    """What the study's file states for the variant, in one line."""
    return ", ".join(f"{key} = {value}" for key, value in variant.own.items()) or "as params.yaml"
