"""onnxruntime-web, which runs an exported model in a browser: fetched from npm's registry, verified and unpacked."""

import base64
import hashlib
import io
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from scm.errors import UserError

VERSION = "1.22.0"
SHA512 = "Ud/+EBo6mhuaQWt/OjaOk0iNWjXqJoeeMFr6xQEERZdIZH2OWpGzuujz7lfuOBjUa6TEE/sc4nb7Da5dNL34fg=="
"""npm's integrity of the archive, in base64."""
REGISTRY = "https://registry.npmjs.org"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page needs of it: 11 MB, for the CPU, without WebGPU."""
FOLDER = "onnxruntime-web"
PAGE = Path(__file__).with_name("page.html")
PATIENCE = 60.0
LARGEST = 2**27
"""Most bytes that are read of an archive."""


def fetched() -> bytes:
    """The archive of onnxruntime-web at the pinned version, 20 MB; `npm_config_registry` names another registry.

    Raises:
        UserError: it cannot be fetched, or is another one.
    """
    registry = (os.environ.get("npm_config_registry") or REGISTRY).rstrip("/")  # noqa: SIM112 (npm's own spelling)
    url = f"{registry}/{FOLDER}/-/{FOLDER}-{VERSION}.tgz"
    remedy = "try again, set npm_config_registry to a registry that answers, or leave the page out with --no-page"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            content = answer.read(LARGEST)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise UserError(f"{url} cannot be fetched ({getattr(error, 'reason', error)}): {remedy}") from None
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        raise UserError(f"{url}: its SHA-512 is not that of {FOLDER} {VERSION}: {remedy}")
    return content


def write_page(folder: Path, archive: bytes) -> None:
    """Writes index.html, and the files of onnxruntime-web beside it."""
    shutil.copyfile(PAGE, folder / "index.html")
    (folder / FOLDER).mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for name in FILES:
            member = tar.extractfile(f"package/dist/{name}")
            assert member is not None
            (folder / FOLDER / name).write_bytes(member.read())
