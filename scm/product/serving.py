"""`scm serve`: MLflow's scoring server around a packaged model, with a page for people at /.

/health, /ping, /version and /invocations are MLflow's own; /, /about and /card are added here, and so is what keeps a
request from doing harm: a limit of its size, and code 400 for a body that MLflow would stumble over with a 500.
"""

import argparse
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scm.base.project import find_root
from scm.errors import UserError
from scm.params import Params, load
from scm.product.content import CARD
from scm.product.packaging import package
from scm.report.wording import display_name
from scm.tracking import store
from scm.tracking.records import Settings
from scm.tracking.registry import CHAMPION

PAGE = Path(__file__).with_name("page.html")
MAX_BODY = 2**20
"""Bytes of a request."""


def serve_command(args: argparse.Namespace) -> int:
    """Serves args.model on args.host and args.port, args.max_batch images a request at most, until Ctrl-C."""
    store.quieten()
    with listening(args.host, args.port) as listener, located(args.model) as (uri, shown):
        import uvicorn

        model = load_model(uri, args.max_batch)
        warm_up(model.unwrap_python_model().product)
        app = application(model)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        host, port = listener.getsockname()[:2]
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        print(f"serving {shown} on http://{place}/ (Ctrl-C ends it)", flush=True)
        try:
            with suppress(KeyboardInterrupt):  # uvicorn hands the signal on, once it has closed everything
                server.run(sockets=[listener])
        finally:
            signal.signal(signal.SIGTERM, previous)
    print("scm serve: ended", file=sys.stderr)
    return 0


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that nobody else has, before anything slow is done; port 0 = a free one."""
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
    """What MLflow loads the model by, and what people call it.

    Args:
        asked: a packaged folder, a folder of the project's models/, an address such as models:/NAME@ALIAS; None = the
            champion of the project's store or, where there is none, the project's own student.
    """
    if asked is not None:
        folder = Path(asked)
        if (folder / "MLmodel").is_file():
            yield str(folder.absolute()), asked
        elif (folder / "model.safetensors").is_file():
            with packaged(find_root(folder), folder.absolute().name) as own:
                yield own, asked
        elif ":/" in asked:
            if asked.startswith(("models:", "runs:")):
                _use_store(Settings.of(load(find_root() / "params.yaml"), find_root()))
            yield asked, asked
        else:
            raise UserError(
                f"{asked}: neither a packaged model (a folder with MLmodel), nor a folder of models/ with "
                "model.safetensors, nor an address such as models:/digits@champion"
            )
        return
    root = find_root()
    params = load(root / "params.yaml")
    uri = f"models:/{params.registered_name}@{CHAMPION}"
    if has_champion(root, params):
        yield uri, uri
        return
    model = params.publish.model
    print(f"scm serve: there is no {uri}; taking models/{model} of the project", file=sys.stderr, flush=True)
    with packaged(root, model) as own:
        yield own, f"models/{model}"


@contextmanager
def packaged(root: Path, model: str) -> Iterator[str]:
    """One of the project's models, packaged into a folder that goes away afterwards."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / model
        yield str(package(root, load(root / "params.yaml"), model, folder, str(Path("models") / model)))


def has_champion(root: Path, params: Params) -> bool:
    """Whether the project's store knows a champion; the store is then the one that MLflow loads from.

    Raises:
        UserError: a server does not answer.
    """
    settings = Settings.of(params, root)
    own = settings.store.removeprefix("sqlite:///")
    if own != settings.store and not Path(own.partition("?")[0]).exists():
        return False  # nothing is made by looking
    try:
        client = _use_store(settings)
        client.get_model_version_by_alias(params.registered_name, CHAMPION)
    except Exception as error:  # mlflow, its database driver and the network each raise their own
        if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        address, why = store.without_password(settings.store), store.reason(error)
        raise UserError(f"mlflow: {why} ({address}); `scm serve models/NAME` needs no store") from None
    return True


def load_model(uri: str, max_rows: int) -> Any:
    """Loads a packaged model (mlflow.pyfunc.PyFuncModel) with this limit of rows."""
    import mlflow.pyfunc

    try:
        model = mlflow.pyfunc.load_model(uri, model_config={"max_rows": max_rows})
    except UserError:
        raise
    except Exception as error:  # mlflow's, the network's, or of the package's own code
        raise UserError(f"{uri}: cannot be loaded: {store.reason(error)}") from None
    if not hasattr(getattr(model.unwrap_python_model(), "product", None), "content"):
        raise UserError(f"{uri}: not a model that scm packaged; `mlflow models serve` serves others")
    return model


def warm_up(product: Any) -> None:
    """Draws with each of the two models once, since a first image takes longer than the others."""
    own = product.content.student_steps
    for steps in (*own[:1], max(own, default=0) + 1):
        product.draw([product.wish({**product.content.example(), "steps": steps})])


def application(model: Any) -> Any:
    """MLflow's FastAPI application for a model of `load_model`, with the page and the guards."""
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
    """What the page, and other programs, need to know to ask for images."""
    content = product.content
    guidance = {
        role: {"default": drawing.guidance, "range": drawing.guidance_range}
        for role, drawing in (("student", content.student), ("teacher", content.teacher))
        if drawing is not None
    }
    return {
        "name": content.name,
        "title": display_name(content.name),
        "preset": content.preset,
        "classes": content.classes,
        "student_steps": content.student_steps,
        "teacher_steps": content.teacher_steps,
        "guidance": guidance,
        "max_rows": product.max_rows,
        "max_steps": product.max_steps,
        "example": {"dataframe_records": [content.example()]},
    }


def refusal(code: int, message: str) -> Any:
    """An answer of the form that MLflow gives its own errors."""
    from fastapi.responses import JSONResponse

    return JSONResponse({"error_code": "BAD_REQUEST", "message": message}, status_code=code)


class Guard:
    """ASGI middleware around POST requests.

    It reads a body up to MAX_BODY bytes and refuses more (413), a body without a type (415), and one over which
    MLflow's parsing breaks (400): what breaks in the model itself MLflow has caught by then.
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
        except Exception as error:  # KeyError, TypeError, AttributeError, ... whatever the rows were not
            problem = f"body: cannot be read as rows ({type(error).__name__}); GET /about shows an example"
            await refusal(400, problem)(scope, receive, send)


def _use_store(settings: Settings) -> Any:
    """Opens the store and has MLflow's loader look there."""
    import mlflow

    client = store.connect(settings)
    mlflow.set_tracking_uri(settings.store)
    return client
