"""`scm import-teacher`: takes a network that was trained elsewhere as the teacher."""

import argparse
from pathlib import Path

from scm.commands.arguments import command
from scm.errors import printable


def add(commands: argparse._SubParsersAction) -> None:
    summary = "use a network of EDM2 or EDM, or the teacher of another project, as this project's teacher"
    examples = (
        "scm import-teacher edm2-img64-s-1073741-0.075.pkl",
        "scm import-teacher teacher.safetensors --sigma-rel 0.05",
    )
    parser = command(commands, "import-teacher", _import_teacher, summary, *examples)
    parser.add_argument(
        "file", type=Path, help="a published .pkl, a .safetensors of its state dict, or a .safetensors of scm"
    )
    parser.add_argument(
        "--sigma-rel", type=float, help="length of the EMA average, if neither the file nor its name states it"
    )


def _import_teacher(options: argparse.Namespace) -> int:
    from scm.params.project import Project
    from scm.pipeline.importing import import_teacher

    print(*map(printable, import_teacher(Project.open(), options.file, options.sigma_rel)), sep="\n")
    return 0
