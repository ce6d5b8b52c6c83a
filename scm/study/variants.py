"""Studies: files in pipelines/studies, each of which says how its variants differ from params.yaml.

A study works with any preset, so its values may be relative to a base. The base of the study's `params` is params.yaml;
the base of a variant is params.yaml under the study's `params`:

    images: x0.25                        a quarter of the base's value for the same key; a count stays a whole number
    images: =student.scd.images          the base's value for this key; `key.0` is the first item of a list
    images: =student.scd.images x0.25    a quarter of that value
    modulation: {by: network.architecture, edm2: gain, ddpmpp: scale_shift}    a value that another key chooses

All values are resolved and checked before anything runs. `scm.study.run` runs the variants, and `scm.study.results`
says what is drawn of them.
"""

import copy
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from scm.base.count import SUFFIXES, Count
from scm.base.forms import shown
from scm.base.project import TEACHER
from scm.base.sections import Section, Text
from scm.base.yaml_files import parse_mapping, read_mapping, read_text
from scm.errors import UserError
from scm.methods import MethodName
from scm.params import USERS_SECTIONS, flatten, validate
from scm.presets.editing import laid_out
from scm.presets.overlays import RESTORE, laid_over, named_file, names_in
from scm.study.experiments import sources

BY = "by"
"""Key of a mapping that stands for one of its values; it names the parameter that chooses."""
_RELATIVE = re.compile(r"(?:=(?P<key>\w+(?:\.\w+)*))?(?:(?:^| )x(?P<factor>\d+(?:\.\d+)?))?")
_VARIANT = re.compile(r"[A-Za-z0-9]+(?:[._=-][A-Za-z0-9]+)*")
_FOLLOWS = "evaluate.models"
MOST = "most"


def _named(variants: dict[str, Any]) -> dict[str, Any]:
    """Checks the variants' names, which become part of names of experiments in git."""
    for name in variants:
        if not _VARIANT.fullmatch(name) or name.endswith(".lock"):
            raise ValueError(f"the variant {name!r} must be letters and digits, with single -, _, = or . between them")
    return variants


class ReferenceVariant(Section):
    """A variant that is drawn as a horizontal line, since it has no place on the horizontal axis."""

    variant: Text
    model: Text


class Figure(Section):
    """What is drawn of a study.

    Attributes:
        kind: terms: both terms of a student's tangent over t, or of a teacher's df/dt. progress: Frechet distance over
            the training. versus: figures over a number in which the variants differ. bars: Frechet distance of each
            variant.
        models: the models whose figures are drawn; none stated = those of all variants.
        evaluations: numbers of network evaluations that are drawn; `most` = each variant's largest, for versus; None =
            all that were measured.
        x, x_label: for versus, the parameter on the horizontal axis, and its meaning.
        lines: for versus, a parameter each of whose values gets lines of its own; a method's own value counts.
        figures: for versus, the figures that are drawn, one panel each.
        reference: for versus, the variant that is drawn as a horizontal line.
        mean_over: the parameter, such as seed, over whose values the page adds means and deviations; variants that
            differ in it alone belong together.
    """

    kind: Literal["terms", "progress", "versus", "bars"]
    models: list[Text] = Field([])
    x: Text | None = None
    x_label: Text | None = None
    lines: Text | None = None
    figures: Annotated[list[Literal["fd", "precision", "recall"]], Field(min_length=1)] = Field(["fd"])
    evaluations: list[int] | Literal["most"] | None = None
    reference: ReferenceVariant | None = None
    mean_over: Text | None = None


class StudyFile(Section):
    """The content of a file in pipelines/studies.

    Attributes:
        title: what is compared.
        paper: the paper's finding, in a sentence of ours; None = the study is none of the paper's.
        methods: students of all variants and what each starts from; None = those of params.yaml.
        blocks: parameters of methods that params.yaml has no block for.
        params: values that all variants share, over params.yaml.
        variants: values of each variant, over `params`.
        figure: what is drawn.
    """

    title: Text
    paper: Text | None = None
    methods: Annotated[dict[MethodName, Text], Field(min_length=1)] | None = None
    blocks: dict[MethodName, dict[str, Any]] = Field({})
    params: dict[str, Any] = Field({})
    variants: Annotated[dict[str, dict[str, Any] | None], Field(min_length=1), AfterValidator(_named)]
    figure: Figure


@dataclass(frozen=True)
class Variant:
    """One set of parameters of a study.

    Attributes:
        values: all parameters, plain.
        own: flat values that the study's file states for this variant.
        experiment: name of its DVC experiment; it contains a hash of all that a result can follow from.
    """

    name: str
    values: dict[str, Any]
    own: dict[str, Any]
    experiment: str

    @property
    def models(self) -> list[str]:
        """The teacher, then the students."""
        return self.values["evaluate"]["models"]


@dataclass(frozen=True)
class Study:
    """A study over the present params.yaml, named by its file; `StudyFile` explains title, paper and figure."""

    name: str
    title: str
    paper: str | None
    figure: Figure
    variants: list[Variant]


def names(root: Path) -> list[str]:
    return names_in(_folder(root))


def summary(root: Path, name: str) -> str:
    """The first line of the file if that is a comment, else the study's title."""
    path = named_file(_folder(root), name, "study")
    text = read_text(path, RESTORE)
    first = text.partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else str(parse_mapping(text, str(path)).get("title", ""))


def read(root: Path, name: str) -> Study:
    """Reads a study and resolves its variants over the present params.yaml.

    Raises:
        UserError: the file is faulty, or params.yaml does not allow one of the variants.
    """
    # The file itself.
    path, params_file = named_file(_folder(root), name, "study"), root / "params.yaml"
    try:
        study = StudyFile.model_validate(read_mapping(path, RESTORE))
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        key = ".".join(map(str, details["loc"]))
        raise UserError(f"{path}: {key} = {shown(details['input'])}: {details['msg']}; correct it") from None
    # Its variants, over the values as params.yaml writes them: relative counts keep their suffix.
    current = read_mapping(params_file, RESTORE)
    validate(current, str(params_file))
    try:
        base = _base(current, study)
        made_from = functools.cache(functools.partial(sources, root))
        variants = [_variant(name, key, overlay or {}, base, made_from) for key, overlay in study.variants.items()]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    all_models = list(dict.fromkeys(model for variant in variants for model in variant.models))
    figure = study.figure if study.figure.models else study.figure.model_copy(update={"models": all_models})
    _check_figure(path, figure, variants)
    return Study(name, study.title, study.paper, figure, variants)


def write(root: Path, values: Mapping[str, Any]) -> str:
    """The project's params.yaml with these values instead, which `dvc exp apply` will put in its place."""
    path = root / "params.yaml"
    text = laid_out(read_text(path, RESTORE), values, str(path))
    written = parse_mapping(text, str(path))
    assert written == values and list(written["student"]["methods"]) == list(values["student"]["methods"])
    return text


def _folder(root: Path) -> Path:
    return root / "pipelines" / "studies"


def _base(current: dict[str, Any], study: StudyFile) -> dict[str, Any]:
    """params.yaml under what all variants share; the blocks of methods that params.yaml has stay as they are.

    Raises:
        UserError: a method that the study starts from the teacher has a block for the start from another student.
    """
    for method, start in (study.methods or {}).items():
        own = current["student"]["methods"].get(method, start)
        if start == TEACHER and own not in (start, *(study.methods or ())):
            problem = f"params.yaml trains {method} from {own}, and this study from {start}"
            raise UserError(f"{problem}; run `scm preset apply digits-short` first, or another preset with this start")
    base = current
    for method, block in study.blocks.items():
        if base["student"].get(method) is None:
            base = _laid_over(base, {"student": {method: block}})
    base = _laid_over(base, study.params)
    if study.methods:
        base["student"]["methods"] = dict(study.methods)
    return base


def _variant(
    study: str, name: str, overlay: dict[str, Any], base: dict[str, Any], made_from: Callable[[str], list[str | None]]
) -> Variant:
    """A variant of the study; `made_from` is `sources` for a `data.path`."""
    try:
        values, own = _laid_over(base, overlay), _absolute_values(overlay, base)
    except UserError as error:
        raise UserError(f"variants.{name}: {error}") from None
    values["evaluate"]["models"] = [TEACHER, *values["student"]["methods"]]
    validate(values, f"variants.{name} over params.yaml")
    decisive = {key: value for key, value in values.items() if key not in ("preset", *USERS_SECTIONS)}
    inputs = [decisive, made_from(values["data"]["path"])]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
    return Variant(name, values, flatten(own), f"{study}-{name}-{digest}")


def _check_figure(path: Path, figure: Figure, variants: list[Variant]) -> None:
    """Checks that the variants have what the figure shows."""
    models = {model for variant in variants for model in variant.models}
    for model in figure.models:
        if model not in models:
            problem = f"no variant has this model; use {', '.join(sorted(models))}"
            raise UserError(f"{path}: figure.models = {shown(model)}: {problem}")
    reference = figure.reference
    if reference and not any(v.name == reference.variant and reference.model in v.models for v in variants):
        problem = f"no variant {reference.variant} has a model {reference.model}"
        raise UserError(f"{path}: figure.reference: {problem}; name one of variants")
    for variant in variants if figure.mean_over else ():
        if figure.mean_over not in variant.own:
            problem = f"the variant {variant.name} does not say it; name a parameter of all variants"
            raise UserError(f"{path}: figure.mean_over = {shown(figure.mean_over)}: {problem}")
    for variant in variants if figure.kind == "versus" else ():
        apart = reference and variant.name == reference.variant
        if not apart and number(variant, figure.x or "") is None:
            problem = f"not a number in the variant {variant.name}"
            raise UserError(f"{path}: figure.x = {shown(figure.x)}: {problem}; name a parameter of all variants")


def value_of(variant: Variant, key: str) -> str:
    """A parameter of a variant in words, `-` if it has none."""
    value = _at(variant.values, key)
    return "-" if value is None else str(value)


def number(variant: Variant, key: str) -> float | None:
    """A parameter of a variant as a number, None if it is no number."""
    value = _at(variant.values, key)
    if isinstance(value, str):
        try:
            return int(Count(value))
        except ValueError:
            return None
    return value if isinstance(value, int | float) else None


def _laid_over(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`base` under `overlay`, whose relative values follow from `base`."""
    values = _absolute_values(overlay, base)
    # A mapping that an overlay refers to replaces the base's mapping, while one that it writes out is merged into it.
    cleared = _changed(overlay, lambda value, key: None)
    return laid_over(laid_over(base, cleared), values)


def _absolute_values(overlay: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The overlay with absolute values in place of relative ones."""

    def absolute(value: Any, key: str) -> Any:
        found = _absolute(value, key, base)
        if isinstance(_at(base, key), Mapping) and not isinstance(found, Mapping):
            raise UserError(f"{key} = {shown(value)}: must be a mapping; write its keys indented below it")
        return found

    return _changed(overlay, absolute)


def _changed(overlay: Mapping[str, Any], change: Callable[[Any, str], Any], above: str = "") -> dict[str, Any]:
    """The overlay with `change(value, dotted key)` in place of each value that is no mapping of further keys."""
    result = {}
    for name, value in overlay.items():
        key = f"{above}.{name}".lstrip(".")
        if key == _FOLLOWS:
            raise UserError(f"{key} = {shown(value)}: it follows from the methods; take it out")
        further = isinstance(value, Mapping) and BY not in value
        result[name] = _changed(value, change, key) if further else change(value, key)
    return result


def _absolute(value: Any, key: str, base: Mapping[str, Any]) -> Any:
    """The value that a relative value stands for."""
    if isinstance(value, list):
        return [_absolute(item, f"{key}.{index}", base) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        choice = _at(base, str(value[BY]))
        if not isinstance(choice, str) or choice not in value:
            raise UserError(f"{key}: nothing is said for {value[BY]} = {shown(choice)}; add it")
        return _absolute(value[choice], key, base)
    match = _RELATIVE.fullmatch(value) if isinstance(value, str) and value else None
    if match is None:
        return value
    source, factor = match["key"] or key, match["factor"]
    found = _at(base, source)
    if found is None:
        raise UserError(f"{key} = {shown(value)}: params.yaml has no {source}; add it, or write a value")
    return copy.deepcopy(found) if factor is None else _times(found, float(factor), key, value)


def _times(found: Any, factor: float, key: str, written: str) -> Any:
    """The product of a number or count and a factor; a count stays a count, a whole number whole."""
    if isinstance(found, float):
        return found * factor
    try:
        count = max(int(Count(found)) and 1, round(int(Count(found)) * factor))
    except (TypeError, ValueError):
        raise UserError(f"{key} = {shown(written)}: {shown(found)} cannot be multiplied; write a value") from None
    if isinstance(found, int):
        return count
    size = SUFFIXES["Ki"]
    return f"{count // size}Ki" if count and count % size == 0 else count


def _at(values: Any, key: str) -> Any:
    """The value under a dotted key, in which numbers are places in lists; None if there is no such value."""
    for part in key.split("."):
        if isinstance(values, list):
            values = values[int(part)] if part.isdecimal() and int(part) < len(values) else None
        else:
            values = values.get(part) if isinstance(values, Mapping) else None
    return values
