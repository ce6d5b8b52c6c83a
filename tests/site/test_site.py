"""The documentation site: it builds without a warning, says what GitHub shows, and loads nothing from elsewhere."""

import html
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import markdown
import pytest
from markdown_it import MarkdownIt
from mkdocs.exceptions import PluginError
from pydantic import BaseModel

from scm import cli
from scm.methods import MethodBlock, StudentCommon
from scm.params import flatten
from scm.params.schema import METHODS, Params
from scm.presets import apply as presets

ROOT = Path(__file__).parents[2]
EXTENSIONS = ["attr_list", "md_in_html", "tables", "pymdownx.superfences"]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TAGS = ("li", "ul", "ol", "pre", "table", "tr", "h2", "h3", "img", "a", "strong", "em", "blockquote")


def hook(name: str) -> ModuleType:
    """A hook as mkdocs loads it, by its path."""
    specification = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs/site" / f"{name}.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return folder


@pytest.mark.slow
def test_every_page_is_in_the_navigation(site):
    docs = ROOT / "docs"
    names = {path.relative_to(docs).with_suffix(".html").as_posix() for path in docs.rglob("*.md")}
    pages = {page.replace(".md", ".html") for page in hook("pages").PAGES.values()}
    index = (site / "index.html").read_text(encoding="utf-8")
    navigation = index[index.index("md-nav--primary") : index.index("md-sidebar--secondary")]
    linked = set(re.findall(r'href="([\w./-]+[.]html)"', navigation))
    assert names | pages <= linked
    assert {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"} <= linked | {
        "index.html"
    }


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="([^"]*)"', text)
        loaded += re.findall(r'<link[^>]*rel="(?!canonical|next|prev)[^>]*href="([^"]*)"', text)
        assert loaded and not [place for place in loaded if re.match(r"https?:|//", place)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:|//)", style.read_text(encoding="utf-8")), style


@pytest.mark.slow
def test_numerics_have_their_docstrings_and_examples(site):
    text = (site / "reference/trigflow.html").read_text(encoding="utf-8")
    assert 'id="scm.trigflow.denoise"' in text and "per_sample" in text
    assert "Examples:" in text and "&gt;&gt;&gt; " in text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_site_lays_a_page_out_as_github_does(path):
    """Lists, tables and code are the same things by CommonMark and by Python's Markdown, after the hook."""
    text = path.read_text(encoding="utf-8")
    theirs = MarkdownIt("commonmark").enable("table").render(text)
    ours = markdown.markdown(hook("pages").indented(text), extensions=EXTENSIONS)
    assert {tag: len(re.findall(rf"<{tag}[ >]", ours)) for tag in TAGS} == {
        tag: len(re.findall(rf"<{tag}[ >]", theirs)) for tag in TAGS
    }
    assert words(ours) == words(theirs)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files_of_the_repository_as_github_follows_them(path):
    pages = hook("pages")
    text = "".join(part for part in pages.FENCE.split(path.read_text(encoding="utf-8")) if not part.startswith("```"))
    for _, target, _ in pages.LINK.findall(text):
        assert (path.parent / target).exists(), target


def words(page: str) -> str:
    """The text alone."""
    return re.sub(r"\s", "", html.unescape(re.sub(r"<[^>]*>", "", page)))


@pytest.mark.parametrize(
    ("given", "laid_out"),
    [
        ("a\n- b\n", "a\n\n- b"),
        ("1. a\n   - b\n     c\n", "1. a\n    - b\n        c"),
        ("- a\n  ```\n  - b\n  ```\n", "- a\n    ```\n    - b\n    ```"),
        ("```\n- a\n  - b\n```\n", "```\n- a\n  - b\n```"),
    ],
)
def test_lists_are_indented_by_four(given, laid_out):
    assert hook("pages").indented(given) == laid_out


def test_links_lead_to_pages_or_to_copies_of_files():
    pages = hook("pages")
    assert pages.site_place("README.md", None, None) == "index.md"
    assert pages.site_place("docs/data.md", None, None) == "data.md"
    assert pages.site_place("params.yaml", None, None) == "reference/parameters.md"
    with pytest.raises(PluginError, match="links to scm/none, which is no file"):
        pages.site_place("scm/none", None, None)


@pytest.fixture(scope="module")
def parameters() -> ModuleType:
    return hook("parameters")


def schema_keys(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Keys that hold values, independently of the generator: by their validated types' fields."""
    for name, field in model.model_fields.items():
        kinds = [kind for kind in getattr(field.annotation, "__args__", [field.annotation]) if isinstance(kind, type)]
        inner = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if issubclass(model, MethodBlock) and name in StudentCommon.model_fields:
            continue
        yield from schema_keys(inner[0], f"{above}{name}.") if inner else [f"{above}{name}"]


def test_the_reference_of_parameters_has_every_key_of_the_schema_and_of_the_presets(parameters):
    documented = re.findall(r"^\| `([\w.]+)` \|", parameters.reference(), flags=re.MULTILINE)
    assert sorted(documented) == sorted(schema_keys(Params))
    own = rf"^student[.]({'|'.join(METHODS)})[.](?=({'|'.join(StudentCommon.model_fields)})\b)"
    for preset in presets.names(ROOT):
        values = flatten(presets.resolve(ROOT, preset))
        keys = {re.sub(own, "student.common.", re.sub(r"^(student[.]methods).*", r"\1", key)) for key in values}
        keys -= {f"student.{name}" for name in METHODS}  # null switches a method off
        assert keys <= set(documented), preset


def test_a_row_says_type_range_value_and_comment(parameters):
    rows = parameters.reference().splitlines()
    for row in (
        "| `data.max_pixels` | count ≥ 1 | `64Mi` "
        "| a file that claims more pixels than this is refused without decoding it |",
        "| `codec.sha256` | list of SHA-256 or `null` | `null` "
        "| [hash of each weight file, in the order of their names]; null = record the hashes only |",
        "| `data.on_bad_image` | `error` or `skip` | `error` "
        "| error = stop at the first unusable image \\| skip = leave it out and count it |",
        "| `student.ect.q` | number > 1 | `6.0` | factor by which each stage shrinks the differences |",
        "| `student.multistep.segments` | whole number ≥ 1 | `2` "
        "| M, the parts of the trajectory, each of which is jumped in one step |",
    ):
        assert row in rows
    methods = "{kd: teacher, scd: kd, sct: kd, ect: kd}"
    assert any(row.startswith(f"| `student.methods` | mapping | `{methods}` | The") for row in rows)


def test_every_key_of_a_method_of_its_own_has_a_comment(parameters):
    for section, model in parameters.sections_of(Params):
        if section.removeprefix("student.").partition(".")[0] in METHODS:
            for key in parameters.keys_of(model, {}, section):
                assert key.comment, f"{key.path}: say what it is under Attributes in the docstring of {model.__name__}"


def test_the_reference_of_commands_has_every_command_and_option():
    commands = hook("commands")
    text = commands.reference()
    for parser in commands.parsers(cli.parser()):
        if parser.prog != "scm":
            section = text[text.index(f"# {parser.prog}\n") :]
            section = section[: section.index("\n## ") if "\n## " in section else None]
            for action in parser._actions:
                assert action.dest == "help" or all(name in section for name in action.option_strings)
    assert "| `--model MODEL` | teacher or a student's method (default: publish.model of params.yaml) |" in text
    assert "scm sample --model scd --steps 2 --classes 3,7 -n 64 --seed 0 -o grid.png" in text
