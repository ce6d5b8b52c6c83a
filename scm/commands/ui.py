"""`scm ui`: MLflow's pages on the project's store."""

import argparse
import os
import sys
from pathlib import Path

from scm.commands.arguments import command

OPTIONAL = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "UVICORN_LOG_LEVEL": "warning"}
"""Variables that the user's own go before: no processes that wait for jobs, and no second address that is printed."""


def add(commands: argparse._SubParsersAction) -> None:
    ui = command(commands, "ui", _ui, "show the runs: MLflow's pages on the project's store", "scm ui --port 5002")
    ui.add_argument("--port", type=int, default=5000, help="port to listen on, at 127.0.0.1 (default: 5000)")


def _ui(options: argparse.Namespace) -> int:
    from scm.params.project import Project
    from scm.tracking import store, view
    from scm.tracking.records import experiment_name

    project = Project.open()
    settings = project.tracking
    remote = settings.store.lower().startswith("http")
    server = settings.shown.rstrip("/") if remote else f"http://127.0.0.1:{options.port}"
    experiment = experiment_name(settings, project.params.preset)
    address = store.answered(settings, "scm ui", lambda: view.address(store.connect(settings), server, experiment))
    if remote:
        print(f"MLflow's pages are at {address}")
        return 0
    print(f"MLflow's pages will soon be at {address}\nCtrl-C ends them", flush=True)
    os.chdir(settings.home)
    program = str(Path(sys.executable).with_name("mlflow"))
    # In the environment, since everybody can read the arguments of a process and the address may hold a password.
    environment = {**OPTIONAL, **os.environ, "MLFLOW_BACKEND_STORE_URI": settings.store}
    arguments = ["server", "--host", "127.0.0.1", "--port", str(options.port), "--workers", "1"]
    os.execve(program, [program, *arguments], environment)
