"""`scm ui`: MLflow's pages on the project's store."""

import argparse
import os
import sys
from pathlib import Path

from scm.commands.arguments import command


def add(commands: argparse._SubParsersAction) -> None:
    ui = command(commands, "ui", _ui, "show the runs: MLflow's pages on the project's store", "scm ui --port 5002")
    ui.add_argument("--port", type=int, default=5000, help="port to listen on, at 127.0.0.1 (default: 5000)")


def _ui(options: argparse.Namespace) -> int:
    from scm.params.project import Project
    from scm.tracking import store

    project = Project.open()
    settings = project.tracking
    if settings.store.lower().startswith("http"):
        print(f"MLflow's pages are at {settings.shown}")
        return 0
    store.answered(settings, "scm ui", lambda: store.connect(settings))
    os.chdir(settings.home)
    program = str(Path(sys.executable).with_name("mlflow"))
    # In the environment, since everybody can read the arguments of a process and the address may hold a password.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": settings.store}
    os.execve(program, [program, "server", "--host", "127.0.0.1", "--port", str(options.port)], environment)
