"""Names by which a server may be called.

A page on a stranger's site can make its own name resolve to 127.0.0.1, and then ask a server there as if it were a page
of that server. The Host header of such a request still has the stranger's name.
"""

import re
from collections.abc import Sequence

from scm.errors import UserError

OWN = ("localhost", "127.0.0.1", "::1")
ANY = "*"


def hosts_of(bound: str, allowed: Sequence[str]) -> frozenset[str]:
    """Names of a server that listens on `bound`, with those that a user allows."""
    for name in allowed:
        if name != ANY and (name.count(":") == 1 or host_of(f"[{name}]" if ":" in name else name) is None):
            raise UserError(f"--allow-host {name}: must be a name or address alone, such as images.example.org")
    return frozenset({*OWN, *(name.lower().removesuffix(".") for name in (bound, *allowed))})


def host_of(header: str) -> str | None:
    """The name or address in a Host header, without the port; None = not of that form."""
    match = re.fullmatch(r"(\[[\da-f:.]+\]|[\w.-]+)(:\d{0,5})?", header.lower(), re.ASCII)
    return match and match[1].strip("[]").removesuffix(".")


def is_own(header: str, arrived: str, hosts: frozenset[str]) -> bool:
    """True if a Host header names this server; the address at which the request arrived is one of its names."""
    return ANY in hosts or host_of(header) in {*hosts, arrived.removeprefix("::ffff:")}
