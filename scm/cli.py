"""The command `scm`. Only the standard library is imported until a sub-command runs, so that --help answers at once."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from scm.errors import EXIT_INTERRUPTED, Interrupted, UserError

MINUTES_OF_A_YEAR = 525_600
_RUN_OPTIONS = ("--parallel", "-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code (1: the input was wrong, 75: interrupted, the same command goes on)."""
    try:
        options = _parse(list(sys.argv[1:] if arguments is None else arguments))
        code = options.handler(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"scm: error: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"scm: interrupted{f': {error}' if str(error) else ''}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    """`scm run` passes on, in their order, all arguments that are not its own."""
    passed_on: list[str] = []
    if arguments[:1] == ["run"]:
        passed_on = [argument for argument in arguments[1:] if argument not in _RUN_OPTIONS]
        arguments = ["run", *(argument for argument in arguments[1:] if argument in _RUN_OPTIONS)]
    options = _parser().parse_args(arguments)
    options.passed_on = passed_on
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scm",
        description="Few-step image generation with continuous-time consistency models (arXiv 2410.11081).",
        epilog="examples:\n  scm preset apply digits-smoke\n  scm run\n  scm sample --model scd --steps 2 -o grid.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_params(commands)
    _add_preset(commands)
    _add_plan(commands)
    _add_run(commands)
    _add_sample(commands)
    _add_serve(commands)
    _add_card(commands)
    _add_import_teacher(commands)
    _add_study(commands)
    _add_sync(commands)
    _add_publish(commands)
    _add_retrain(commands)
    return parser


def _add(commands: argparse._SubParsersAction, name: str, summary: str, *examples: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_params(commands: argparse._SubParsersAction) -> None:
    group = _add(commands, "params", "check or show params.yaml", "scm params check", "scm params show student")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    check = _add(
        actions, "check", "say whether params.yaml is valid", "scm params check", "scm params check other.yaml"
    )
    check.add_argument("file", nargs="?", type=Path, help="default: params.yaml of the project")
    check.set_defaults(handler=_check)
    examples = ("scm params show", "scm params show teacher.lr", "scm params show student.scd --file other.yaml")
    show = _add(actions, "show", "print the values, one a line", *examples)
    show.add_argument("key", nargs="?", default="", help="print this key and those below it only")
    show.add_argument("--file", type=Path, help="default: params.yaml of the project")
    show.set_defaults(handler=_show)


def _add_preset(commands: argparse._SubParsersAction) -> None:
    examples = ("scm preset list", "scm preset diff folder", "scm preset apply folder")
    group = _add(commands, "preset", "named sets of values for params.yaml", *examples)
    actions = group.add_subparsers(metavar="ACTION", required=True)
    listing = _add(actions, "list", "show the presets' data, sizes, methods and published figures", "scm preset list")
    listing.set_defaults(handler=_preset_list)
    for name, summary, handler in (
        ("show", "print a preset's file", _preset_show),
        ("diff", "print what applying a preset would change", _preset_diff),
        ("apply", "write a preset's values into params.yaml, keeping comments and the user's sections", _preset_apply),
    ):
        action = _add(actions, name, summary, f"scm preset {name} digits", f"scm preset {name} folder")
        action.add_argument("name", help="see `scm preset list`")
        action.set_defaults(handler=handler)


def _add_plan(commands: argparse._SubParsersAction) -> None:
    summary = "say what `scm run` would do, why, and how long it would take; needs neither data nor outputs"
    plan = _add(commands, "plan", summary, "scm plan", "scm plan --json", "scm plan --check --assume-data")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.add_argument("--check", action="store_true", help="end with exit code 10 if a stage would run")
    plan.add_argument(
        "--assume-data", action="store_true", help="take images that are not here for those that dvc.lock knows"
    )
    plan.set_defaults(handler=_plan)


def _add_run(commands: argparse._SubParsersAction) -> None:
    examples = ("scm run", "scm run --parallel", "scm run train_student@scd", "scm run --dry --force evaluate")
    run = _add(commands, "run", "run what is out of date, as `dvc repro` does, and stop cleanly on Ctrl-C", *examples)
    run.usage = "scm run [-h] [--parallel] [dvc repro's options and targets ...]"
    run.add_argument("--parallel", action="store_true", help="train the students side by side where there are GPUs")
    run.set_defaults(handler=_run)


def _add_sample(commands: argparse._SubParsersAction) -> None:
    examples = (
        "scm sample --model scd --steps 2 --classes 3,7 -n 64 --seed 0 -o grid.png",
        "scm sample --model teacher --steps 18 -n 16 -o teacher.png",
    )
    sample = _add(commands, "sample", "draw images from a trained model into one PNG", *examples)
    sample.add_argument("--model", default="scd", help="teacher or a student's method (default: scd)")
    sample.add_argument("--steps", type=_whole, default=2, help="sampling steps (default: 2)")
    sample.add_argument("--classes", type=_names, help="class names or numbers, comma-separated (default: all in turn)")
    sample.add_argument("-n", "--count", type=_whole, default=64, help="number of images (default: 64)")
    sample.add_argument("--seed", type=int, default=0, help="seed of the first image (default: 0)")
    sample.add_argument("--guidance", type=float, help="guidance scale (default: the one that selection chose)")
    sample.add_argument("-o", "--output", type=Path, default=Path("grid.png"), help="default: grid.png")
    sample.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    sample.set_defaults(handler=_sample)


def _add_serve(commands: argparse._SubParsersAction) -> None:
    summary = "serve a model: a page with its images, and JSON as `mlflow models serve` has it"
    examples = ("scm serve", "scm serve models/sct --port 8000", "scm serve models:/digits@challenger --max-batch 4")
    serve = _add(commands, "serve", summary, *examples)
    default = "the registry's champion, else the project's own"
    serve.add_argument("model", nargs="?", help=f"address, packaged folder or models/NAME (default: {default})")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    serve.add_argument("--port", type=int, default=5001, help="default: 5001; 0 = any that is free")
    serve.add_argument("--max-batch", type=_whole, default=16, help="images that a request may ask for (default: 16)")
    serve.set_defaults(handler=_serve)


def _add_card(commands: argparse._SubParsersAction) -> None:
    summary = "print the card of a model: data, training, figures, use, licence (Markdown)"
    card = _add(commands, "card", summary, "scm card", "scm card sct > card.md")
    card.add_argument(
        "model", nargs="?", help="teacher or a student's method (default: the one that `scm serve` takes)"
    )
    card.set_defaults(handler=_card)


def _add_import_teacher(commands: argparse._SubParsersAction) -> None:
    summary = "take a network of EDM2's or EDM's, or another project's teacher, as the teacher"
    examples = (
        "scm import-teacher edm2-img64-s-1073741-0.075.pkl",
        "scm import-teacher teacher.safetensors --sigma-rel 0.05",
    )
    command = _add(commands, "import-teacher", summary, *examples)
    command.add_argument(
        "file", type=Path, help="their .pkl, a .safetensors of their state dict, or one that scm wrote"
    )
    command.add_argument(
        "--sigma-rel", type=float, help="length of the average, where neither file nor its name says it"
    )
    command.set_defaults(handler=_import_teacher)


def _add_study(commands: argparse._SubParsersAction) -> None:
    summary = "run one of the paper's ablations over params.yaml as DVC experiments, and draw it"
    study = _add(commands, "study", summary, "scm study", "scm study fig5a", "scm study fig5a --draw")
    study.add_argument("name", nargs="?", help="of a file in pipelines/studies (default: list them)")
    study.add_argument("--list", action="store_true", help="list the studies")
    study.add_argument("--draw", action="store_true", help="draw what has been run, run nothing")
    study.set_defaults(handler=_study)


def _add_sync(commands: argparse._SubParsersAction) -> None:
    sync = _add(commands, "sync", "send to MLflow what it does not have yet; twice changes nothing", "scm sync")
    sync.set_defaults(handler=_sync)


def _add_publish(commands: argparse._SubParsersAction) -> None:
    summary = "compare the new model with the champion and, if it is better, make it the champion"
    publish = _add(commands, "publish", summary, "scm publish", "scm publish --dry-run")
    publish.add_argument("--dry-run", action="store_true", help="write results/verdict.*, and nothing to the registry")
    publish.set_defaults(handler=_publish)
    summary = "make the version champion again that was so before"
    rollback = _add(commands, "rollback", summary, "scm rollback", "scm rollback --to 3")
    rollback.add_argument("--to", type=_version, metavar="VERSION", help="any other version of the registered model")
    rollback.set_defaults(handler=_rollback)
    champion = _add(commands, "champion", "print the champion's version, distance and commit", "scm champion")
    champion.set_defaults(handler=_champion)


def _add_retrain(commands: argparse._SubParsersAction) -> None:
    summary = "what a schedule starts: plan, train what is out of date, publish it if it is better (docs/retraining.md)"
    examples = ('scm retrain --params "teacher.images=1Mi seed=1"', "scm retrain train --minutes 330")
    retrain = _add(commands, "retrain", summary, "scm retrain", *examples, "scm retrain publish --propose github")
    retrain.add_argument("action", nargs="?", choices=["plan", "train", "publish"], help="default: all three")
    retrain.add_argument("--preset", default="", help="apply this preset to params.yaml first")
    retrain.add_argument("--params", default="", metavar="'KEY=VALUE ...'", help="then write these values into it")
    retrain.add_argument("--force", action="store_true", help="run all stages, whatever is up to date")
    retrain.add_argument(
        "--assume-data", action="store_true", help="in the plan: take images that are not here for those of dvc.lock"
    )
    retrain.add_argument("--minutes", type=_minutes, help="interrupt after this time, with exit code 75; again goes on")
    places = ["github", "gitlab", "branch"]
    retrain.add_argument("--propose", choices=places, help="push what is new as a branch, and ask to merge it there")
    retrain.add_argument("--remote", default="origin", help="git's remote for that (default: origin)")
    retrain.set_defaults(handler=_retrain)


def _version(text: str) -> str:
    return str(_whole(text))


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def _minutes(text: str) -> float:
    number = float(text)
    if not 0 < number <= MINUTES_OF_A_YEAR:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most {MINUTES_OF_A_YEAR:,}, not {text}")
    return number


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"must be names or numbers such as 3,7, not {text!r}")
    return names


def _params_file(given: Path | None) -> Path:
    from scm.base.project import find_root

    return given or find_root() / "params.yaml"


def _check(options: argparse.Namespace) -> int:
    from scm.params import dump, flatten, load

    path = _params_file(options.file)
    params = load(path)
    print(f"{path}: ok ({len(flatten(dump(params)))} values, preset {params.preset})")
    return 0


def _show(options: argparse.Namespace) -> int:
    from scm.params import dump, flatten, load

    path = _params_file(options.file)
    values = flatten(dump(load(path)))
    chosen = {key: value for key, value in values.items() if f"{key}.".startswith(f"{options.key}.".lstrip("."))}
    if not chosen:
        raise UserError(f"{path}: {options.key}: no such key; `scm params show` prints them all")
    for key, value in chosen.items():
        print(f"{key}: {_as_yaml(value)}")
    return 0


def _as_yaml(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else str(value)


def _preset_list(_: argparse.Namespace) -> int:
    from scm.base.project import find_root
    from scm.presets.table import entries, table

    print("\n".join(table(entries(find_root()))))
    return 0


def _preset_show(options: argparse.Namespace) -> int:
    from scm.base.project import find_root
    from scm.presets.apply import show

    print(show(find_root(), options.name), end="")
    return 0


def _preset_diff(options: argparse.Namespace) -> int:
    from scm.base.project import find_root
    from scm.presets.apply import diff

    root = find_root()
    print("\n".join(diff(root / "params.yaml", root, options.name)) or "no change")
    return 0


def _preset_apply(options: argparse.Namespace) -> int:
    from scm.base.project import find_root
    from scm.presets.apply import apply

    root = find_root()
    print("\n".join(apply(root / "params.yaml", root, options.name)) or "no change")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from scm.pipeline.plan_table import plan_command

    return plan_command(options)


def _run(options: argparse.Namespace) -> int:
    from scm.pipeline.supervisor import run

    return run(options.passed_on, parallel=options.parallel)


def _sample(options: argparse.Namespace) -> int:
    from scm.commands.sample import sample_command

    return sample_command(options) or 0


def _serve(options: argparse.Namespace) -> int:
    from scm.product.serving import serve_command

    return serve_command(options)


def _card(options: argparse.Namespace) -> int:
    from scm.product.packaging import card_command

    return card_command(options)


def _import_teacher(options: argparse.Namespace) -> int:
    from scm.pipeline.importing import import_command

    return import_command(options)


def _study(options: argparse.Namespace) -> int:
    from scm.study.run import study_command

    return study_command(options)


def _sync(options: argparse.Namespace) -> int:
    from scm.tracking.sync import sync_command

    return sync_command(options) or 0


def _publish(options: argparse.Namespace) -> int:
    from scm.publishing.publish import publish_command

    return publish_command(options)


def _rollback(options: argparse.Namespace) -> int:
    from scm.publishing.publish import rollback_command

    return rollback_command(options)


def _champion(options: argparse.Namespace) -> int:
    from scm.publishing.publish import champion_command

    return champion_command(options)


def _retrain(options: argparse.Namespace) -> int:
    from scm.retraining.cycle import retrain_command

    return retrain_command(options)


if __name__ == "__main__":
    sys.exit(main())
