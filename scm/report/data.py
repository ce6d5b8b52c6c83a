"""The report's part about the data: what `prepare` counted, and its contact sheet."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scm.base.files import read_json
from scm.errors import UserError

if TYPE_CHECKING:
    pass

FOLDER = Path("results/samples/prepare")
SPELT_OUT = 20
"""Classes that get a line each; of more the least and the most images are said."""
Bars = Sequence[tuple[str, int]]


def read(root: Path) -> dict[str, Any]:
    """What `scm.data.summary.summary` wrote.

    Raises:
        UserError: it is missing or no such thing.
    """
    content = read_json(root / FOLDER / "data.json")
    if not isinstance(content, dict) or "classes" not in content:
        raise UserError(f"{root / FOLDER / 'data.json'} is not what prepare writes: run `dvc repro prepare`")
    return content


def sentence(data: dict[str, Any]) -> str:
    """All in one line."""
    classes, side = data["classes"], data["resolution"]
    counts = [entry["images"] for entry in classes]
    to_most = f" to {max(counts):,}" if len(set(counts)) > 1 else ""
    each = f" of {min(counts):,}{to_most} images" if counts else ""
    kind = {1: "grey", 3: "RGB"}.get(data["channels"], f"{data['channels']} channels")
    in_classes = f" in {len(classes):,} class{'es' if len(classes) != 1 else ''}{each}" if classes else ""
    reasons = ", ".join(f"{entry['files']:,} × {entry['reason']}" for entry in data["skipped_reasons"])
    left_out = f"{data['skipped']:,} files left out" + (f" ({reasons})" if reasons else "")
    return (
        f"{data['images']:,} images{in_classes}, brought to {side}×{side} pixels, {kind}; {data['enlarged']:,} were "
        f"smaller. {left_out}."
    )


def section(root: Path, data: dict[str, Any]) -> str:
    """HTML of all of it."""
    source = embedded(root / FOLDER / "contact.png")
    sides = [(f"{entry['from']:,} to {entry['to']:,} px", entry["images"]) for entry in data["short_sides"]]
    tables = _bars("Short sides of the originals", sides)
    if 0 < len(data["classes"]) <= SPELT_OUT:
        tables = _bars("Classes", [(entry["name"], entry["images"]) for entry in data["classes"]]) + tables
    return (
        f'<h2>Data</h2>\n<p class="note">{escape(sentence(data))}</p>\n<div class="grids"><figure class="card">'
        f'<img src="{source}" alt="Images from all over the data"><figcaption><b>Real images</b> · from all over the '
        f"data</figcaption></figure>{tables}</div>"
    )


def _bars(title: str, bars: Bars) -> str:
    most = max((count for _, count in bars), default=1)
    lines = "".join(
        f'<tr><td class="wrap">{escape(name)}</td><td class="n">{count:,}</td>'
        f'<td><div class="bar" style="width:{100 * count / most:.1f}%"></div></td></tr>'
        for name, count in bars
    )
    return f'<div class="card"><b>{title}</b><table class="bars"><tbody>{lines}</tbody></table></div>'


def embedded(path: Path) -> str:
    """A PNG file as an address that holds it.

    Raises:
        UserError: it is missing or empty.
    """
    data = path.read_bytes() if path.is_file() else b""
    if not data:
        raise UserError(f"{path} is missing or empty: delete it and run `dvc repro`")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
