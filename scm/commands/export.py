"""`scm export`: writes a model in a form that needs no project, and mostly no scm."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scm.commands.arguments import command, whole
from scm.commands.sample import SOURCE, model_of
from scm.errors import UserError, printable

if TYPE_CHECKING:
    from scm.export.write import Wanted

FORMS = {
    "package": "scm's own form, with the teacher, for scm.load, `scm sample --from`, `scm serve` and MLflow",
    "onnx": "a file of ONNX for each number of steps, and a page that runs them in a browser",
    "diffusers": "a folder for diffusers and the Hugging Face hub, with its own code",
    "torch": "a program of torch.export for each number of steps, which torch alone loads",
}


def add(commands: argparse._SubParsersAction) -> None:
    summary = "write a student for use without this project: as ONNX with a page, for diffusers, for torch alone"
    examples = (
        "scm export --to onnx web",
        "scm export --to torch program --model scd --steps 2",
        "scm export --to package portable && scm sample --from portable",
    )
    export = command(commands, "export", _export, summary, *examples)
    export.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    told = "; ".join(f"{name}: {what}" for name, what in FORMS.items())
    export.add_argument("--to", required=True, choices=list(FORMS), help=told)
    export.add_argument("--from", dest="source", metavar="ADDRESS", help=SOURCE)
    export.add_argument("--model", help="a student's method (default: publish.model of params.yaml)")
    export.add_argument("--steps", type=whole, help="sampling steps (default: a file for each number that it has)")
    export.add_argument("--guidance", type=float, help="guidance scale (default: the one chosen for these steps)")
    export.add_argument("--no-page", action="store_true", help="onnx: leave the page out, which fetches 20 MB from npm")
    export.set_defaults(device="cpu", classes=None)


def _export(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    _require_place(folder)
    if options.no_page and options.to != "onnx":
        raise UserError("--no-page: only --to onnx writes a page; leave the option out")
    if options.to == "package":
        _package(options)
    else:
        _converted(options)
    print(printable(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}"))
    return 0


def _require_place(folder: Path) -> None:
    """Refuses a place that is taken, or that cannot be made."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UserError(f"{folder}: exists and is not an empty folder; give the name of a new one")
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    if not there.is_dir():
        raise UserError(f"{folder}: {there} is no folder; choose another place")


def _package(options: argparse.Namespace) -> None:
    given = [name for name in ("source", "steps", "guidance") if getattr(options, name) is not None]
    if given:
        option = "from" if given[0] == "source" else given[0]
        raise UserError(f"--{option}: a package takes the project's model with all of its steps; leave the option out")
    from scm.base.files import replacing_folder
    from scm.params.project import Project
    from scm.product.packaging import package

    project = Project.open()
    with replacing_folder(options.folder) as temporary:
        made = package(project, options.model or project.params.publish.model, temporary / "package")
        for path in list(made.iterdir()):
            path.rename(temporary / path.name)
        made.rmdir()


def _converted(options: argparse.Namespace) -> None:
    from scm.export.onnx_file import require_exporter

    if options.to == "onnx":
        require_exporter()
    wanted = _wanted(options)
    from scm.export import hub, write

    if options.to == "onnx":
        write.export_onnx(wanted, options.folder, page=not options.no_page)
    elif options.to == "diffusers":
        hub.export_diffusers(wanted, options.folder)
    else:
        write.export_torch(wanted, options.folder)


def _wanted(options: argparse.Namespace) -> "Wanted":
    """The model, the numbers of steps that it has or those that are asked for, and its card."""
    loaded = model_of(options)
    from scm.export.write import Wanted
    from scm.generation import trained

    for steps in (chosen := loaded.steps if options.steps is None else (options.steps,)):
        trained.sampler_of(loaded.header, steps, loaded.levels)
        trained.scale_of(loaded.header, steps, options.guidance)
    return Wanted(loaded, chosen, options.guidance, loaded.card or _card(loaded.name))


def _card(model: str) -> str:
    """The card of one of the project's models."""
    from scm.params.project import Project
    from scm.product.card import card
    from scm.product.packaging import content_of

    project = Project.open()
    return card(project, content_of(project, model)[0])
