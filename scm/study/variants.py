"""Studies: the paper's ablations, each a file in pipelines/studies that says how its variants differ from params.yaml.

A study works over any preset, so that its values may be relative to those that are there, base being params.yaml, then
the study's own `params` for a variant:

    images: x0.25                        a quarter of what the base has under the same key; counts become whole numbers
    images: =student.scd.images          what the base has under this key; `key.0` is the first of a list
    images: =student.scd.images x0.25    a quarter of that
    modulation: {by: network.architecture, edm2: gain, ddpmpp: scale_shift}    by what another key says

Everything is resolved and checked before anything runs. Figures are drawn by `scm.study.results`; `scm.study.run`
runs the variants.
"""

import copy
import difflib
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
from scm.base.project import TEACHER
from scm.base.sections import Section, Text
from scm.base.yaml_files import parse_mapping, read_text, render
from scm.errors import UserError
from scm.methods import MethodName
from scm.params import USERS_SECTIONS, flatten, validate
from scm.params.faults import shown
from scm.presets.apply import WHOLE
from scm.study.experiments import sources

BY = "by"
"""Key of a mapping that stands for one of its values, chosen by another parameter."""
_RELATIVE = re.compile(r"(?:=(?P<key>\w+(?:\.\w+)*))?(?:(?:^| )x(?P<factor>\d+(?:\.\d+)?))?")
_VARIANT = re.compile(r"[A-Za-z0-9]+(?:[._=-][A-Za-z0-9]+)*")
_RESTORE = "restore it with git"
_FOLLOWS = "evaluate.models"


def _named(variants: dict[str, Any]) -> dict[str, Any]:
    """Variants become part of git's names of experiments."""
    for name in variants:
        if not _VARIANT.fullmatch(name) or name.endswith(".lock"):
            raise ValueError(f"the variant {name!r} must be letters and digits, with single -, _, = or . between them")
    return variants


class Reference(Section):
    """A variant that is drawn as a level, since it has no place on the horizontal axis."""

    variant: Text
    model: Text


class Figure(Section):
    """What is drawn of a study.

    Attributes:
        kind: terms: both terms of the tangent over t. progress: Frechet distance over the training. versus: figures
            over a number that the variants differ in. bars: Frechet distance of each variant.
        models: whose figures.
        x: versus: the parameter on the horizontal axis.
        x_label: versus: its meaning.
        figures: versus: what is drawn, a panel each.
        evaluations: the numbers of network evaluations that are drawn; None = all that were measured.
        reference: versus: what is drawn as a level.
    """

    kind: Literal["terms", "progress", "versus", "bars"]
    models: Annotated[list[Text], Field(min_length=1)]
    x: Text | None = None
    x_label: Text | None = None
    figures: Annotated[list[Literal["fd", "precision", "recall"]], Field(min_length=1)] = Field(["fd"])
    evaluations: list[int] | None = None
    reference: Reference | None = None


class _File(Section):
    """A file of pipelines/studies."""

    title: Text
    paper: Text
    methods: Annotated[dict[MethodName, Text], Field(min_length=1)] | None = None
    blocks: dict[MethodName, dict[str, Any]] = Field({})
    params: dict[str, Any] = Field({})
    variants: Annotated[dict[str, dict[str, Any] | None], Field(min_length=1), AfterValidator(_named)]
    figure: Figure


@dataclass(frozen=True)
class Variant:
    """One set of parameters of a study.

    Attributes:
        name: as the study's file has it.
        values: all parameters, plain.
        own: flat values that the study's file states for this variant.
        experiment: name of its DVC experiment, which holds a hash of all that a result can follow from.
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
    """A study over the present params.yaml.

    Attributes:
        name: of its file.
        title: what is compared.
        paper: what the paper found, in a sentence of ours.
        figure: what is drawn.
        variants: in the file's order.
    """

    name: str
    title: str
    paper: str
    figure: Figure
    variants: list[Variant]


def names(root: Path) -> list[str]:
    return sorted(path.stem for path in _folder(root).glob("*.yaml"))


def summary(root: Path, name: str) -> str:
    """First line of the header."""
    return read_text(_file(root, name), _RESTORE).partition("\n")[0].lstrip("# ")


def read(root: Path, name: str) -> Study:
    """A study's variants over the present params.yaml.

    Raises:
        UserError: if the file is faulty, or if params.yaml does not allow one of the variants.
    """
    path, params_file = _file(root, name), root / "params.yaml"
    try:
        study = _File.model_validate(parse_mapping(read_text(path, _RESTORE), str(path)))
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        key = ".".join(map(str, details["loc"]))
        raise UserError(f"{path}: {key} = {shown(details['input'])}: {details['msg']}; correct it") from None
    current = parse_mapping(read_text(params_file, _RESTORE), str(params_file))
    validate(current, str(params_file))
    try:
        base = _base(current, study)
        made_from = functools.cache(functools.partial(sources, root))
        variants = [_variant(name, key, overlay or {}, base, made_from) for key, overlay in study.variants.items()]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    _check_figure(path, study.figure, variants)
    return Study(name, study.title, study.paper, study.figure, variants)


def write(values: Mapping[str, Any]) -> str:
    """The text of a parameter file with these values, without comments."""
    plain = json.dumps(values)
    text = render(json.loads(plain))  # no two keys share a list, which YAML would write with an anchor
    assert json.dumps(parse_mapping(text, "params.yaml")) == plain
    return text


def _folder(root: Path) -> Path:
    return root / "pipelines" / "studies"


def _file(root: Path, name: str) -> Path:
    known = names(root)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known) or 'none'}"
        raise UserError(f"no study {name} in {_folder(root)}: {remedy}")
    return _folder(root) / f"{name}.yaml"


def _base(current: dict[str, Any], study: _File) -> dict[str, Any]:
    """params.yaml under what all variants share; blocks of methods are added only where it has none."""
    base = current
    for method, block in study.blocks.items():
        if base["student"].get(method) is None:
            base = _laid_over(base, {"student": {method: block}}, base)
    base = _laid_over(base, study.params, base)
    if study.methods:
        base["student"]["methods"] = dict(study.methods)
    return base


def _variant(
    study: str, name: str, overlay: dict[str, Any], base: dict[str, Any], made_from: Callable[[str], list[str | None]]
) -> Variant:
    """`made_from` gives the hashes of what lies at a `data.path`, and of what else results follow from."""
    try:
        values, own = _laid_over(base, overlay, base), _laid_over({}, overlay, base)
    except UserError as error:
        raise UserError(f"variants.{name}: {error}") from None
    values["evaluate"]["models"] = [TEACHER, *values["student"]["methods"]]
    validate(values, f"variants.{name} over params.yaml")
    decisive = {key: value for key, value in values.items() if key not in ("preset", *USERS_SECTIONS)}
    inputs = [decisive, made_from(values["data"]["path"])]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
    return Variant(name, values, flatten(own), f"{study}-{name}-{digest}")


def _check_figure(path: Path, figure: Figure, variants: list[Variant]) -> None:
    """What is drawn must be there."""
    models = {model for variant in variants for model in variant.models}
    for model in figure.models:
        if model not in models:
            remedy = f"use {', '.join(sorted(models))}"
            raise UserError(f"{path}: figure.models = {shown(model)}: no variant has this model; {remedy}")
    reference = figure.reference
    if reference and not any(v.name == reference.variant and reference.model in v.models for v in variants):
        problem = f"no variant {reference.variant} has a model {reference.model}"
        raise UserError(f"{path}: figure.reference: {problem}; name one of variants")
    if figure.kind != "versus":
        return
    for variant in variants:
        if reference and variant.name == reference.variant:
            continue
        if not isinstance(number(variant, figure.x or ""), int | float):
            problem = f"not a number in the variant {variant.name}"
            raise UserError(f"{path}: figure.x = {shown(figure.x)}: {problem}; name a parameter of all variants")


def number(variant: Variant, key: str) -> float | None:
    """A parameter of a variant as a number, None if it is none."""
    value = _at(variant.values, key)
    if isinstance(value, str):
        try:
            return int(Count(value))
        except ValueError:
            return None
    return value if isinstance(value, int | float) else None


def _laid_over(values: Mapping[str, Any], overlay: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """`values` under `overlay`, whose relative values follow from `base`; neither is changed."""

    def merge(old: Any, new: Any, key: str) -> Any:
        if key == _FOLLOWS:
            raise UserError(f"{key} = {shown(new)}: it follows from the methods; take it out")
        if isinstance(new, Mapping) and BY not in new:
            kept = copy.deepcopy(dict(old)) if isinstance(old, Mapping) and key.split(".")[-1] not in WHOLE else {}
            inner = {name: merge(kept.get(name), value, f"{key}.{name}".lstrip(".")) for name, value in new.items()}
            return {**kept, **inner}
        value = _absolute(new, key, base)
        if isinstance(_at(base, key), Mapping) and not isinstance(value, Mapping):
            raise UserError(f"{key} = {shown(new)}: must be a mapping; write its keys indented below it")
        return value

    return merge(values, overlay, "")


def _absolute(value: Any, key: str, base: Mapping[str, Any]) -> Any:
    """A value that depends on nothing any more."""
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
    """A number or count multiplied; counts and whole numbers stay what they are."""
    if isinstance(found, float):
        return found * factor
    try:
        count = max(int(Count(found)) and 1, round(int(Count(found)) * factor))
    except (TypeError, ValueError):
        raise UserError(f"{key} = {shown(written)}: {shown(found)} cannot be multiplied; write a value") from None
    if isinstance(found, int):
        return count
    suffix = next((text for text, size in list(SUFFIXES.items())[1:2] if count and count % size == 0), "")
    return f"{count // SUFFIXES[suffix]}{suffix}" if suffix else count


def _at(values: Any, key: str) -> Any:
    """The value under a dotted key, numbers being places in lists; None if there is none."""
    for part in key.split("."):
        if isinstance(values, list):
            values = values[int(part)] if part.isdecimal() and int(part) < len(values) else None
        else:
            values = values.get(part) if isinstance(values, Mapping) else None
    return values
