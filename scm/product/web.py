"""The HTTP side of `scm serve`: the interface of MLflow's servers as far as it is JSON, and pages beside it.

MLflow's own server also reads CSV and Parquet of any size, answers with stack traces, and goes on drawing for clients
that are gone. Here each request is bounded before it costs anything: in bytes, seconds, rows, and in how many wait. One
thread draws, so the loop always answers.
"""

import asyncio
import base64
import concurrent.futures
import hashlib
import re
import threading
from collections.abc import Mapping
from typing import Any

import uvicorn
from mlflow.version import VERSION
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from scm.errors import UserError, printable
from scm.product.card_page import card_page
from scm.product.hosts import is_own
from scm.product.model import Dropped, Product, Wish
from scm.product.rows import rows_of

MAX_BODY = 2**20
"""Most bytes of a request."""
MAX_REQUESTS = 32
"""Most requests for images at a time: one is drawn, the others wait or are sent."""
MAX_HELD = 2**26
"""Most bytes of bodies that are being received, all together: slow clients hold few, and keep nobody out."""
MAX_CONNECTIONS = 900
"""Most connections; a process may usually open 1,024 files."""
PATIENCE = 10.0
"""Seconds that a client has for a header, and for a body."""
SENDING = 6
"""A client has to take an answer within this many times PATIENCE."""
GRACE = 5
"""Seconds that requests may still take when the server ends."""
LONGEST_MESSAGE = 500
"""Most characters of an error's message, since it may quote the request."""
AGAIN = {"retry-after": "1"}


def refusal(code: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the form of MLflow's own, on one line."""
    text = printable(message)
    text = text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…"
    kind = {500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}.get(code, "BAD_REQUEST")
    return JSONResponse({"error_code": kind, "message": text}, code, headers)


def security_headers(*pages: str) -> list[tuple[str, str]]:
    """Headers of every answer; of scripts and styles, browsers run and apply those of `pages` alone."""
    hashes, text = {}, "\n".join(pages)
    for tag in ("script", "style"):
        found = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digests = [hashlib.sha256(each.encode()).digest() for each in found]
        hashes[tag] = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return [
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
    ]


def application(
    invocations: "Invocations", page: str, about: dict[str, Any], card: str, hosts: frozenset[str]
) -> ASGIApp:
    """The application: answers that are always the same, by their paths, and /invocations.

    Args:
        card: the model card in Markdown.
    """
    cards = {
        "html": HTMLResponse(card_page(card), headers={"vary": "accept"}),
        "markdown": PlainTextResponse(card, media_type="text/markdown", headers={"vary": "accept"}),
    }

    async def carded(request: Request) -> Response:
        accepted = request.headers.get("accept", "").lower()
        wanted = "html" if "text/html" in accepted and "text/markdown" not in accepted else "markdown"
        wanted = request.query_params.get("format", wanted)
        return cards.get(wanted) or refusal(400, f"format {wanted}: must be {' or '.join(cards)}")

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refusal(error.status_code, error.detail, error.headers)

    async def failed(request: Request, error: Exception) -> Response:
        return refusal(500, "internal error; the server's log has the reason")

    well = Response("\n", media_type="application/json")
    fixed = {
        "/": HTMLResponse(page),
        "/about": JSONResponse(about),
        "/ping": well,
        "/health": well,
        "/version": Response(VERSION, media_type="application/json"),
    }
    routes = [Route(path, answer, methods=["GET"]) for path, answer in fixed.items()]
    routes.append(Route("/card", carded, methods=["GET"]))
    routes.append(Route("/invocations", invocations, methods=["POST"]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: refused, Exception: failed})
    app.router.redirect_slashes = False
    return Hosts(app, hosts)


def server(app: ASGIApp, headers: list[tuple[str, str]]) -> uvicorn.Server:
    """A server of HTTP alone, whose answers all have these headers; `run(sockets=...)` ends with Ctrl-C or SIGTERM."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        headers=headers,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
    )
    return uvicorn.Server(config)


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 connection, which a client can neither hold open without a request nor by not reading."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch = self.loop.call_later(PATIENCE, self._look, (None, True), 0)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def _look(self, before: tuple[Any, bool], unsent: int) -> None:
        """Closes a connection that has been idle since the last look, or whose client has not read for a long time.

        uvicorn itself waits for ever once the first byte of a header has come.

        Args:
            before: at the last look, the latest request (None = none yet), and True if it was done.
            unsent: number of looks in a row at which something was unsent.
        """
        now = self.cycle, self.cycle is None or self.cycle.response_complete
        unsent = unsent + 1 if self.transport.get_write_buffer_size() else 0
        if unsent > SENDING or (not unsent and now[1] and now == before):
            self.transport.abort()
        else:
            self._watch = self.loop.call_later(PATIENCE, self._look, now, unsent)

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP as everything else is answered: in JSON, with the headers of all answers."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        answer = refusal(400, "not a valid HTTP request", {"connection": "close"})
        lines = [b": ".join(pair) for pair in (*answer.raw_headers, *self.server_state.default_headers)]
        self.transport.write(b"\r\n".join([b"HTTP/1.1 400 Bad Request", *lines, b"", bytes(answer.body)]))
        self.transport.close()


class Hosts:
    """ASGI middleware that refuses requests for other servers (scm.product.hosts); HTTP/1.0 may name none."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app, given = self._app, Headers(scope=scope).get("host") if scope["type"] == "http" else None
        if given is not None and not is_own(given, str((scope["server"] or ("",))[0]), self._hosts):
            app = refusal(403, f"host {given}: not a name of this server; `scm serve --allow-host NAME` adds one")
        await app(scope, receive, send)


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.answer = refusal(code, message, headers)


class Invocations:
    """ASGI application for POST /invocations: rows in JSON in, images out."""

    def __init__(self, product: Product, seconds: float) -> None:
        """Draws with `product`; a request waits and is drawn for `seconds` at most."""
        self._product, self._seconds, self._inside, self._held = product, seconds, 0, 0
        self._turn = asyncio.Lock()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "drawing")
        self._drawing: concurrent.futures.Future[Response] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = None
        try:
            wishes = await self._wishes(Headers(scope=scope), receive)
            if self._inside >= MAX_REQUESTS:
                raise Refused(503, f"{MAX_REQUESTS} requests wait already; try again soon", AGAIN)
            self._inside += 1
            try:
                answer = await self._drawn(wishes, receive)
                await answer(scope, receive, _until_read(send))
            finally:
                self._inside -= 1
        except Dropped:
            pass
        except Refused as refused:
            await refused.answer(scope, receive, send)
        except asyncio.CancelledError:  # uvicorn cancels what GRACE did not suffice for
            if answer is None:
                await refusal(503, "the server is ending; try again later", AGAIN)(scope, receive, send)

    def ended(self, seconds: float) -> bool:
        """Waits until nothing is drawn any more; False if the evaluation of a network takes longer than `seconds`."""
        self._thread.shutdown(wait=False)
        return self._drawing is None or not concurrent.futures.wait([self._drawing], seconds).not_done

    async def _wishes(self, headers: Headers, receive: Receive) -> list[Wish]:
        """Reads a request's rows."""
        if (fault := _unreadable(headers)) is not None:
            raise Refused(415, fault)
        body = bytearray()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._read(body, int(headers.get("content-length", 0)), receive)
            rows = rows_of(bytes(body), self._product.max_rows)
            if not any("image" in row for row in rows):
                return self._product.wishes(rows)
            return await asyncio.to_thread(self._product.wishes, rows)  # pictures take a while to decode
        except TimeoutError:
            raise Refused(408, f"body: not sent within {PATIENCE:g} s", {"connection": "close"}) from None
        except UserError as error:
            raise Refused(400, str(error)) from None
        finally:
            self._held -= len(body)

    async def _read(self, body: bytearray, said: int, receive: Receive) -> None:
        """Reads a body that is `said` to have so many bytes, 0 = unknown, and counts it as held."""
        more, size = True, said
        while size <= MAX_BODY and self._held <= MAX_HELD:
            if not more:
                return
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Dropped
            part, more = message.get("body", b""), message.get("more_body", False)
            body += part
            self._held += len(part)
            size = max(said, len(body))
        if size > MAX_BODY:
            raise Refused(413, f"body: more than {MAX_BODY:,} bytes; ask for fewer images")
        raise Refused(503, "many bodies are being received already; try again soon", AGAIN)

    async def _drawn(self, wishes: list[Wish], receive: Receive) -> Response:
        """Waits for its turn and draws, both as long as the client is there and there is time."""
        loop, stop = asyncio.get_running_loop(), threading.Event()
        ends, gone = loop.time() + self._seconds, asyncio.ensure_future(_gone(receive))
        turn = asyncio.ensure_future(self._turn.acquire())
        try:
            if await _first(turn, gone, ends):
                self._drawing = work = self._thread.submit(self._draw, wishes, stop)
                drawing = asyncio.wrap_future(work)
                drawing.add_done_callback(self._next)
                if await _first(drawing, gone, ends):
                    return drawing.result()
            if gone.done():
                raise Dropped
            raise Refused(504, f"not drawn within {self._seconds:g} s; ask for fewer images or steps")
        finally:
            stop.set()
            turn.cancel()
            gone.cancel()

    def _draw(self, wishes: list[Wish], stop: threading.Event) -> Response:
        try:
            return JSONResponse({"predictions": self._product.draw(wishes, lambda: not stop.is_set())})
        except UserError as error:  # the model's own fault: its samples are not finite
            return refusal(500, str(error))

    def _next(self, drawing: "asyncio.Future[Any]") -> None:
        drawing.exception()  # has been read, whether or not somebody still waits for it
        self._turn.release()


def _unreadable(headers: Headers) -> str | None:
    """What is wrong with the type or the encoding of a body; None = nothing."""
    kind, *parameters = (part.strip().lower() for part in headers.get("content-type", "").split(";"))
    if kind != "application/json" or len(headers.getlist("content-type")) > 1:
        return f"content-type {kind or 'is missing'}: send application/json"
    for parameter in parameters:
        if parameter.replace('"', "") != "charset=utf-8":
            return f"content-type: {parameter}: send application/json in UTF-8"
    encoding = ", ".join(headers.getlist("content-encoding")).lower()
    return None if encoding in ("", "identity") else f"content-encoding {encoding}: send the body as it is"


async def _gone(receive: Receive) -> None:
    """Waits until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first(work: "asyncio.Future[Any]", gone: "asyncio.Future[Any]", ends: float) -> bool:
    """Waits for work while the client is there and there is time; True if the work was done."""
    seconds = max(0.0, ends - asyncio.get_running_loop().time())
    await asyncio.wait({work, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    return work.done()


def _until_read(send: Send) -> Send:
    """Sends an answer, and returns when the client has read nearly all of it, so that it counts as one of MAX_REQUESTS.

    uvicorn holds the second message back while its buffer is full.
    """

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.body":
            await send({**message, "more_body": True})
            message = {"type": "http.response.body"}
        await send(message)

    return sent
