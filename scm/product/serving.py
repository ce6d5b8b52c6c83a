"""What `scm serve` serves: a packaged model, found and loaded, its pages, and the socket."""

import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scm.errors import UserError
from scm.generation.editing import image_shape
from scm.params.project import Project
from scm.product.card_page import TEMPLATE
from scm.product.content import CARD
from scm.product.packaging import champion_address, package
from scm.report.wording import display_name
from scm.tracking import store
from scm.tracking.registry import CHAMPION

PAGE = Path(__file__).with_name("page.html")
SWITCH = 0.0005
"""Seconds after which the thread that draws gives way to the one that answers; Python's own 0.005 slow it down."""
LAST_EVALUATION = 3.0
"""Seconds that the evaluation of a network may still take when the server has ended."""


def serve(model: Any, listener: socket.socket, shown: str, hosts: frozenset[str]) -> bool:
    """Serves a model of `load_model`, which people call `shown`, on a socket of `listening` until Ctrl-C or SIGTERM.

    Returns:
        False if the evaluation of a network, which nothing can interrupt, still goes on in its thread.
    """
    from scm.product import web

    product = model.unwrap_python_model().product
    warm_up(product)
    page, card = PAGE.read_text(encoding="utf-8"), product.folder.joinpath(CARD).read_text(encoding="utf-8")
    invocations = web.Invocations(product, request_seconds())
    app = web.application(invocations, page, described(product), card, hosts)
    host, port = listener.getsockname()[:2]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    print(f"serving {shown} on http://{place}/ (Ctrl-C ends it)", flush=True)
    sys.setswitchinterval(SWITCH)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has closed everything
        web.server(app, web.security_headers(page, TEMPLATE)).run(sockets=[listener])
    return invocations.ended(LAST_EVALUATION)


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Within the block SIGTERM does what Ctrl-C does, and both end the block."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Opens a socket that no other program listens on; port 0 = any free one."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port {port}: must be between 0 and {2**16 - 1}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except socket.gaierror:
            raise UserError(f"--host {host}: no such name or address here; use 127.0.0.1") from None
        except OSError as error:
            where = f"--host {host} --port {port}"
            raise UserError(f"{where}: cannot be listened on ({error.strerror}); choose another --port") from None
        yield listener


@contextmanager
def located(asked: str | None) -> Iterator[tuple[str, str]]:
    """Finds the model to serve; yields the address that MLflow loads it by, and what people call it.

    Args:
        asked: a packaged folder, a folder of the project's models/, an address such as models:/NAME@ALIAS; None = the
            champion of the project's store or, if there is none, the project's own student.
    """
    if asked is not None:
        folder = Path(asked)
        if (folder / "MLmodel").is_file():
            yield str(folder.absolute()), asked
        elif (folder / "model.safetensors").is_file():
            with packaged(Project.open(folder), folder.absolute().name) as own:
                yield own, asked
        elif ":/" in asked:
            if asked.startswith(("models:", "runs:")):
                project = Project.open()
                store.answered(project.tracking, "scm serve", lambda: _use_store(project))
            yield asked, asked
        else:
            raise UserError(
                f"{asked}: neither a packaged model (a folder with MLmodel), nor a folder of models/ with "
                "model.safetensors, nor an address such as models:/digits@champion"
            )
        return
    project = Project.open()
    address, model = champion_address(project), project.params.publish.model
    if has_champion(project):
        yield address, address
        return
    print(f"scm serve: there is no {address}; taking models/{model} of the project", file=sys.stderr, flush=True)
    with packaged(project, model) as own:
        yield own, f"models/{model}"


@contextmanager
def packaged(project: Project, model: str) -> Iterator[str]:
    """Packages one of the project's models into a folder that exists within the block."""
    with tempfile.TemporaryDirectory() as temporary:
        yield str(package(project, model, Path(temporary) / model))


def has_champion(project: Project) -> bool:
    """True if the project's store has a champion, in which case MLflow loads models from this store."""
    settings = project.tracking
    if store.is_new(settings):
        return False  # asking must not make a store
    try:
        _use_store(project).get_model_version_by_alias(project.params.registered_name, CHAMPION)
    except Exception as error:  # mlflow, its database driver and the network each raise their own
        if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise UserError(
            f"mlflow: {store.reason(error)} ({settings.shown}); `scm serve models/NAME` needs no store"
        ) from None
    return True


def load_model(uri: str, max_rows: int) -> Any:
    """Loads a packaged model (mlflow.pyfunc.PyFuncModel); `max_rows` is the most images that a request may ask for."""
    import mlflow.pyfunc

    try:
        model = mlflow.pyfunc.load_model(uri, model_config={"max_rows": max_rows})
    except UserError:
        raise
    except Exception as error:  # raised by mlflow, the network or the package's own code
        raise UserError(f"{uri}: cannot be loaded: {store.reason(error)}") from None
    if not hasattr(getattr(model.unwrap_python_model(), "product", None), "content"):
        raise UserError(f"{uri}: not a model that scm packaged; `mlflow models serve` serves others")
    return model


def warm_up(product: Any) -> None:
    """Draws one image with each of the two models, since the first one takes longer than the others."""
    own = product.content.student_steps
    for steps in (*own[:1], max(own, default=0) + 1):
        product.draw([product.wish({**product.content.example(), "steps": steps})])


def request_seconds() -> float:
    """Seconds in which a request has to be drawn, as for MLflow's servers."""
    from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT as VARIABLE

    given = VARIABLE.get_raw() or str(VARIABLE.default)
    seconds = int(given[:10]) if given.isdecimal() else 0
    if seconds < 1:
        raise UserError(f"{VARIABLE.name}={given}: must be a whole number of seconds, such as {VARIABLE.default}")
    return seconds


def described(product: Any) -> dict[str, Any]:
    """Facts about the model that the page, or another program, needs in order to ask for images."""
    content = product.content
    guidance = {
        role: {
            "default": {steps: choice["guidance_scale"] for steps, choice in sampling.choices.items()},
            "range": sampling.guidance_range,
        }
        for role, sampling in (("student", content.student), ("teacher", content.teacher))
        if sampling is not None
    }
    named = {name: getattr(content, name) for name in ("name", "preset", "classes", "student_steps", "teacher_steps")}
    limits = {"max_rows": product.max_rows, "max_steps": product.max_steps}
    example = {"dataframe_records": [content.example()]}
    tasks = {"tasks": product.tasks, "image": image_shape(product.codec)}
    return {**named, "title": display_name(content.name), "guidance": guidance, **tasks, **limits, "example": example}


def _use_store(project: Project) -> Any:
    """Opens the project's store, and has MLflow's loader look there."""
    import mlflow

    client = store.connect(project.tracking)
    mlflow.set_tracking_uri(project.tracking.store)
    return client
