"""`scm serve`: a page and a JSON service around a model."""

import argparse
import os
import sys

from scm.commands.arguments import command, whole


def add(commands: argparse._SubParsersAction) -> None:
    summary = "serve a model: a page that draws images, and the JSON requests of `mlflow models serve`"
    examples = ("scm serve", "scm serve models/sct --port 8000", "scm serve models:/digits@challenger --max-batch 4")
    serve = command(commands, "serve", _serve, summary, *examples)
    default = "the registry's champion or, if there is none, the project's own model"
    serve.add_argument("model", nargs="?", help=f"address, packaged folder or models/NAME (default: {default})")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    serve.add_argument("--port", type=int, default=5001, help="port to listen on; 0 takes any free one (default: 5001)")
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST",
        help="a further name under which the server is reached; may be repeated; * allows any",
    )
    serve.add_argument(
        "--max-batch", type=whole, default=16, help="most images that a request may ask for (default: 16)"
    )


def _serve(options: argparse.Namespace) -> int:
    from scm.product.hosts import hosts_of
    from scm.product.serving import ending_on_sigterm, listening, load_model, located, serve
    from scm.tracking import store

    ended = True
    store.quieten()
    hosts = hosts_of(options.host, options.allow_host)
    # The port comes first: a busy one is reported before a model is loaded.
    with ending_on_sigterm(), listening(options.host, options.port) as listener, located(options.model) as (uri, shown):
        ended = serve(load_model(uri, options.max_batch), listener, shown, hosts)
    print("scm serve: ended", file=sys.stderr, flush=True)
    if not ended:
        os._exit(0)  # Python would wait for the thread
    return 0
