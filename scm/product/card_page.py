"""The model card as a page: its Markdown as HTML."""

import html
from pathlib import Path
from string import Template
from typing import Any

from markdown_it import MarkdownIt

TEMPLATE = Path(__file__).with_name("card.html").read_text(encoding="utf-8")
KNOWN = ("<details><summary>All parameters</summary>", "</details>")
"""The only HTML that a card has in its Markdown; any other is shown as text."""


def card_page(card: str) -> str:
    """Renders a card, in which names of strangers may stand, as a page that loads nothing."""
    parser = MarkdownIt("commonmark").enable("table")
    parser.add_render_rule("html_block", _markup)
    parser.add_render_rule("html_inline", _markup)
    tokens = parser.parse(card)
    for token in tokens:
        if alignment := token.attrs.pop("style", None):  # the server's policy refuses styles within tags
            token.attrs["class"] = str(alignment).rpartition(":")[2]
    content = parser.renderer.render(tokens, parser.options, {})
    title = card.partition("\n")[0].removeprefix("# ")
    return Template(TEMPLATE).substitute(title=html.escape(title), card=content)


def _markup(renderer: Any, tokens: Any, place: int, options: Any, environment: Any) -> str:
    text = tokens[place].content
    return text if text.strip() in KNOWN else html.escape(text)
