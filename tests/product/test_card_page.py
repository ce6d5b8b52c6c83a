"""A card as a page: its tables, and nothing that a stranger's name in it could do."""

import pytest

from scm.base.tables import escape, markdown_table
from scm.product.card_page import card_page
from scm.product.web import security_headers

ATTACKS = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<details><summary>All parameters</summary><b>",
    "[a](javascript:alert(1))", "![a](https://example.org/a.png)", "<style>*{}</style>", '"><svg onload=alert(1)>',
)  # fmt: skip


def test_tables_lists_and_the_parameters_are_rendered():
    table = markdown_table(("Model", "FD"), [("sCD", "5.30")], "lr")
    details = "<details><summary>All parameters</summary>\n\n```yaml\nseed: 0\n```\n\n</details>"
    page = card_page(f"# A & B\n\n{table}\n\n- one\n\n{details}\n")
    assert "<title>A &amp; B</title>" in page and "<h1>A &amp; B</h1>" in page and "<li>one</li>" in page
    assert '<td class="right">5.30</td>' in page and "style=" not in page
    assert details.partition("\n")[0] in page and "</details>" in page and "seed: 0" in page


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("written", [escape, str])
def test_html_and_links_to_programs_are_text(name, written):
    before = card_page("# T\n\nx\n")
    for text in (f"# T\n\nx {written(name)}\n", f"# T\n\n{written(name)}\n"):
        page = card_page(text)
        for tag in ("<script", "<style", "<svg", "<b>", "onerror=alert(1)>", "<details", 'href="javascript'):
            assert page.count(tag) == before.count(tag)
        assert security_headers(page) == security_headers(before)
