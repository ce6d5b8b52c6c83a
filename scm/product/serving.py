"""MLflow's scoring server around a packaged model, with a page for people at /.

/health, /ping, /version and /invocations are MLflow's own. This module adds /, /about and /card, and guards against
harmful requests: a limit of their size, and code 400 for a body on which MLflow would fail with 500.
"""

import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scm.errors import UserError
from scm.params.project import Project
from scm.product.content import CARD
from scm.product.packaging import champion_address, package
from scm.report.wording import display_name
from scm.tracking import store
from scm.tracking.registry import CHAMPION

PAGE = Path(__file__).with_name("page.html")
MAX_BODY = 2**20
"""Most bytes of a request."""


def serve(model: Any, listener: socket.socket, shown: str) -> None:
    """Serves a model of `load_model`, which people call `shown`, on a socket of `listening` until Ctrl-C or SIGTERM."""
    import uvicorn

    warm_up(model.unwrap_python_model().product)
    app = application(model)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    host, port = listener.getsockname()[:2]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    print(f"serving {shown} on http://{place}/ (Ctrl-C ends it)", flush=True)
    try:
        with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has closed everything
            server.run(sockets=[listener])
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
        yield str(package(project, model, Path(temporary) / model, str(Path("models") / model)))


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


def application(model: Any) -> Any:
    """MLflow's FastAPI application for a model of `load_model`, with the page and the guard."""
    from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from mlflow.pyfunc import scoring_server

    app, product = scoring_server.init(model), model.unwrap_python_model().product
    text = product.folder.joinpath(CARD).read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse)
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    @app.get("/about")
    def about() -> JSONResponse:
        return JSONResponse(described(product))

    @app.get("/card")
    def card() -> PlainTextResponse:
        return PlainTextResponse(text, media_type="text/markdown; charset=utf-8")

    app.add_middleware(Guard)
    return app


def described(product: Any) -> dict[str, Any]:
    """Facts about the model that the page, or another program, needs in order to ask for images."""
    content = product.content
    guidance = {
        role: {"default": sampling.guidance, "range": sampling.guidance_range}
        for role, sampling in (("student", content.student), ("teacher", content.teacher))
        if sampling is not None
    }
    named = {name: getattr(content, name) for name in ("name", "preset", "classes", "student_steps", "teacher_steps")}
    limits = {"max_rows": product.max_rows, "max_steps": product.max_steps}
    example = {"dataframe_records": [content.example()]}
    return {**named, "title": display_name(content.name), "guidance": guidance, **limits, "example": example}


def refusal(code: int, message: str) -> Any:
    """An error response in the form of MLflow's own."""
    from fastapi.responses import JSONResponse

    return JSONResponse({"error_code": "BAD_REQUEST", "message": message}, status_code=code)


class Guard:
    """ASGI middleware that refuses POST requests which would do harm.

    It refuses bodies of more than MAX_BODY bytes (413), without a content type (415), and those that break MLflow's
    parsing (400). MLflow itself catches errors of the model, so an exception that arrives here is the request's fault.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if b"content-type" not in headers:
            await refusal(415, "content-type: missing; send application/json")(scope, receive, send)
            return
        body, more = b"", True
        while more and len(body) <= MAX_BODY:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > MAX_BODY:
            await refusal(413, f"body: more than {MAX_BODY:,} bytes; ask for fewer images")(scope, receive, send)
            return
        parts = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Any:
            return next(parts, None) or await receive()

        try:
            await self._app(scope, replay, send)
        except Exception as error:  # KeyError, TypeError, AttributeError, ...: depends on what the body is
            problem = f"body: cannot be read as rows ({type(error).__name__}); GET /about shows an example"
            await refusal(400, problem)(scope, receive, send)


def _use_store(project: Project) -> Any:
    """Opens the project's store, and has MLflow's loader look there."""
    import mlflow

    client = store.connect(project.tracking)
    mlflow.set_tracking_uri(project.tracking.store)
    return client
