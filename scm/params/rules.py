"""Impossible combinations in params.yaml: no stage could carry them out, or their result would mislead."""

import math
import posixpath
import re
import shlex
from collections.abc import Iterator

from scm import methods
from scm.base import registry
from scm.base.project import TEACHER
from scm.base.sections import Section, any_of
from scm.methods import StudentSettings
from scm.params import addresses
from scm.params.faults import ABSENT, Fault
from scm.params.schema import LATENT_REDUCTION, METHODS, Params, TeacherSettings, registrable

OUTPUTS = (".work", "data/shards", "data/latents", "data/codec", "data/reference", "models", "results")
"""Folders that the stages write to."""
PARTS = (
    ".ci", ".dvc", ".dvcignore", ".git", ".github", ".gitignore", ".gitlab-ci.yml", ".pre-commit-config.yaml", ".venv",
    "ARCHITECTURE.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "benchmarks", "constraints.txt", "docs",
    "dvc.lock", "dvc.yaml", "dvc_plots", "mlartifacts", "mlflow.db", "mlruns", "params.yaml", "pipelines",
    "pyproject.toml", "scm", "stages", "tests",
)  # fmt: skip
"""Files and folders of the project itself."""
ARCHITECTURES = "scm.params.architectures"


def impossible(params: Params) -> Iterator[Fault]:
    """Yields every impossible combination, in the order of params.yaml."""
    yield from _data(params)
    yield from _codec(params)
    yield from _reference(params)
    yield from _network(params)
    yield from _resolutions(params)
    yield from _hashes(params)
    yield from _training(params, TEACHER, params.teacher)
    yield from _augmentation(params)
    yield from _methods(params)
    yield from _profiles(params)
    yield from _sampling(params)
    yield from _running(params)
    yield from _tracking(params)


def _data(params: Params) -> Iterator[Fault]:
    path = params.data.path
    if re.match(r"file://", path, re.IGNORECASE):
        yield Fault("data.path", path, "a path stands here without a scheme; take file:// away")
    elif re.match(r"[A-Za-z][\w+.-]*://", path):
        remedy = "mount that place, or download it (`dvc import-url` does), and write the local path"
        yield Fault("data.path", path, f"images are read from local disks alone; {remedy}")
    elif path.startswith("~"):
        yield Fault("data.path", path, "~ is not replaced by a home folder here; write the whole path")
    elif fault := misplaced(path):
        yield fault
    if params.data.flip and params.codec.name != "identity":
        problem = "the mirror image of a latent is not the latent of the mirror image"
        remedy = "write false and put the mirrored images into data.path, or write codec.name: identity"
        yield Fault("data.flip", True, f"{problem}; {remedy}")
    refusals = getattr(registry.part("scm.data.sources", params.data.source), "refusals", lambda data: ())
    yield from (Fault(*refusal) for refusal in refusals(params.data))


def misplaced(path: str, place: str | None = None) -> Fault | None:
    """The fault of a data.path that holds no images of its own, if it is one; an absolute path is none.

    Args:
        place: where the path leads, from the project's folder on, if that is not what `path` says.
    """
    place = posixpath.normpath(path if place is None else place)
    if _meets_outputs(place):
        problem = "the pipeline writes files there, which must not be taken for images"
    elif place.split("/")[0] in PARTS:
        problem = "that is a part of the project itself, not images"
    else:
        return None
    remedy = "move the images into a folder of their own, such as data/raw/images, and write its path"
    return Fault("data.path", path, f"{problem}; {remedy}")


def _meets_outputs(place: str) -> bool:
    """True if a relative path holds a place that the pipeline writes to, or lies in one."""
    if place == "." or set(place.split("/")) == {".."}:  # the project, or a folder around it
        return True
    return any(f"{one}/".startswith(f"{other}/") for out in OUTPUTS for one, other in ((place, out), (out, place)))


def _codec(params: Params) -> Iterator[Fault]:
    data, codec = params.data, params.codec
    if codec.name not in ("sd_vae", "edm2_sd_vae") and codec.normalize == "paper":
        remedy = "use measured or none, or codec.name: sd_vae"
        yield Fault("codec.normalize", codec.normalize, f"the paper's constants are the SD-VAE's; {remedy}")
    if codec.normalize == "paper" and codec.channels != 4:
        problem = "the published constants are for 4 channels"
        yield Fault("codec.channels", codec.channels, f"{problem}; write 4, or normalize: measured")
    if codec.name != "identity" and data.channels != 3:
        remedy = "write 3, or codec.name: identity"
        yield Fault("data.channels", data.channels, f"the autoencoder takes colour images; {remedy}")


def _reference(params: Params) -> Iterator[Fault]:
    reference = params.reference
    if isinstance(getattr(reference, reference.extractor, None), Section):  # the pipeline trains this extractor
        for name in ("weights", "sha256", "statistics", "statistics_sha256"):
            value = getattr(reference, name)
            if value is not None:
                problem = f"the {reference.extractor} is trained by the pipeline"
                yield Fault(f"reference.{name}", value, f"{problem}; write null, or another reference.extractor")
    elif reference.weights is None:
        remedy = "docs/evaluation.md says where to get them"
        problem = f"the extractor {reference.extractor} needs its weights"
        yield Fault("reference.weights", None, f"{problem}; {remedy}")
    if reference.statistics is not None and params.data.held_out:
        problem = "reference.statistics are of images that other people chose, held-out ones perhaps among them"
        yield Fault("data.held_out", params.data.held_out, f"{problem}; write 0.0, or reference.statistics: null")
    if reference.statistics is None and reference.statistics_sha256 is not None:
        problem = "there is no reference.statistics that it could be the hash of"
        yield Fault("reference.statistics_sha256", reference.statistics_sha256, f"{problem}; write null")


def _network(params: Params) -> Iterator[Fault]:
    network, modulation = params.network, params.network.modulation
    architectures = {name: registry.part(ARCHITECTURES, name) for name in registry.names(ARCHITECTURES)}
    fitting = [name for name, file in architectures.items() if modulation in file.MODULATIONS]
    if network.architecture not in fitting:
        own = any_of(architectures[network.architecture].MODULATIONS)
        others = f", or network.architecture: {fitting[0]}" if fitting else ""
        problem = f"the architecture {network.architecture} has no such modulation"
        yield Fault("network.modulation", modulation, f"{problem}; use {own}{others}")
    if network.width % 2:
        problem = "odd, but the time embedding has as many sines as cosines"
        yield Fault("network.width", network.width, f"{problem}; use an even one")
    else:
        yield from architectures[network.architecture].faults(network)


def _resolutions(params: Params) -> Iterator[Fault]:
    network, resolution, latents = params.network, params.data.resolution, params.codec.name != "identity"
    architecture = registry.part(ARCHITECTURES, network.architecture)
    divisor, asked, otherwise = architecture.divisor(network)
    multiple = divisor * (LATENT_REDUCTION if latents else 1)
    if resolution % multiple:
        of = f" of the autoencoder's latents, {LATENT_REDUCTION} times smaller" if latents else ""
        problem = f"not divisible by {multiple}, as {asked}{of}"
        yield Fault("data.resolution", resolution, f"{problem}; use a multiple of {multiple}{otherwise}")
        return
    yield from architecture.attention(network, params.shape[1])


def _hashes(params: Params) -> Iterator[Fault]:
    """Refuses the hash of a file that is not named."""
    for key, file, sha256 in (
        ("teacher.start", params.teacher.start, params.teacher.start_sha256),
        ("select.guide", params.select.guide, params.select.guide_sha256),
    ):
        if file is None and sha256 is not None:
            yield Fault(f"{key}_sha256", sha256, f"there is no {key} that it could be the hash of; write null")


def _training(params: Params, key: str, settings: TeacherSettings | StudentSettings) -> Iterator[Fault]:
    images, batch, processes = settings.images, settings.batch, params.runtime.processes
    if images < batch:
        yield Fault(f"{key}.images", images.written, f"less than one batch of {batch}; use {batch} or more")
    elif images // batch < params.ema.snapshots:
        steps = images // batch
        problem = f"more than the {steps} steps of {key} (images / batch)"
        yield Fault("ema.snapshots", params.ema.snapshots, f"{problem}; use {steps} or fewer, or raise {key}.images")
    if batch % processes:
        remedy = f"use a divisor of {batch}, or another batch"
        yield Fault("runtime.processes", processes, f"does not divide the batch of {batch} of {key}; {remedy}")
    halflife = params.ema.halflife
    if halflife and 5 * halflife > images:  # the initial weights would still be 2^-5 = 3 % of the average
        problem = f"more than a fifth of the {images.written} images of {key}, too long to forget the initial weights"
        yield Fault("ema.halflife", halflife.written, f"{problem}; use {images // 5} or less, or null")
    if settings.label_dropout and not params.data.labels:
        problem = "there are no labels to leave out, as data.labels is false"
        yield Fault(f"{key}.label_dropout", settings.label_dropout, f"{problem}; write 0.0, or data.labels: true")
    rate = settings.lr
    if rate.decay == "cosine" and rate.decay_from >= images:
        problem = f"the cosine decay would begin after the {images.written} images of {key}"
        yield Fault(f"{key}.lr.decay_from", rate.decay_from.written, f"{problem}; use less, or decay: constant")
    if rate.warmup > images:
        problem = f"longer than the {images.written} images of {key}, which would never reach lr.max"
        yield Fault(f"{key}.lr.warmup", rate.warmup.written, f"{problem}; use {images.written} or less")


def _augmentation(params: Params) -> Iterator[Fault]:
    augment, architecture = params.teacher.augment, params.network.architecture
    if augment and params.codec.name != "identity":
        problem = "a distorted latent is not the latent of a distorted image"
        yield Fault("teacher.augment", augment, f"{problem}; write 0.0, or codec.name: identity")
    if augment and not getattr(registry.part("scm.params.architectures", architecture), "AUGMENTED", False):
        problem = f"the architecture {architecture} cannot be told of augmentation"
        yield Fault("teacher.augment", augment, f"{problem}; write 0.0, or another network.architecture")


def _methods(params: Params) -> Iterator[Fault]:
    student, models = params.student, params.evaluate.models
    for method, start in student.methods.items():
        key = f"student.{method}"
        if method not in student.declared:
            problem = f"student.methods names {method}, but its block is missing"
            remedy = "add it with images and dropout, or take it out of student.methods"
            yield Fault(key, ABSENT, f"{problem}; {remedy}")
            continue
        settings = student.method(method)
        yield from _training(params, key, settings)
        warmup, images = settings.tangent_warmup, settings.images
        if warmup > images and methods.find(method).by_tangent:
            problem = f"longer than the {images.written} images of {key}, whose tangent would never be whole"
            yield Fault(f"{key}.tangent_warmup", warmup.written, f"{problem}; use {images.written} or less")
        yield from _start(params, method, start)
        if settings.guidance and not _guided(params):
            problem = "a teacher can be guided only if it was trained without labels as well"
            remedy = "set teacher.label_dropout to 0.1, name a select.guide, or take guidance out"
            yield Fault(f"{key}.guidance", list(settings.guidance), f"{problem}; {remedy}")
        yield from (Fault(f"{key}.{name}", *rest) for name, *rest in methods.find(method).refusals(settings))
    expected = [TEACHER, *student.methods]
    if list(models) != expected:
        remedy = f"write [{', '.join(expected)}]"
        left = [name for name in student.methods if name not in models]
        if left:  # as after -S student.methods=..., which adds to a mapping
            remedy += f", or take {left[0]} out of student.methods (in `dvc exp run`: -S '~student.methods.{left[0]}')"
        yield Fault("evaluate.models", list(models), f"must be teacher, then student.methods; {remedy}")


def _start(params: Params, method: str, start: str) -> Iterator[Fault]:
    """A student starts from the teacher, or from another student if it takes all inputs of that student."""
    student, key = params.student, f"student.methods.{method}"
    if start == TEACHER:
        return
    others = [TEACHER, *(other for other in student.methods if other != method)]
    if start not in others:
        off = start in METHODS and start != method
        problem = f"{start} is not switched on" if off else f"not a model that {method} can start from"
        yield Fault(key, start, f"{problem}; use {' or '.join(others)}{', or switch it on' if off else ''}")
        return
    # Follow the starts up to the teacher.
    chain = [method]
    while start != TEACHER and start in student.methods:
        if start in chain:
            yield Fault(key, chain[1], f"starts from itself ({' -> '.join([*chain, start])}); use {TEACHER}")
            return
        chain.append(start)
        start = student.methods[start]
    first = chain[1]
    if first not in student.declared:
        return  # `_methods` reports it
    theirs, own = student.method(first), student.method(method)
    for taken, missing, remedy in (
        ("guidance", theirs.guidance and not own.guidance, f"add student.{method}.guidance, or "),
        ("a second time", theirs.second_time and not own.second_time, ""),
    ):
        if missing:
            problem = f"the network of {first} takes {taken}, that of {method} does not"
            yield Fault(key, first, f"{problem}; {remedy}start from {TEACHER}")
            return
    warmup = student.method(method).tangent_warmup
    if warmup and all(methods.find(name).by_tangent for name in (method, first)):
        problem = f"{first}, which it starts from, has finished its own warm-up"
        key, remedy = f"student.{method}.tangent_warmup", f"write tangent_warmup: 0 in student.{method}"
        yield Fault(key, warmup.written, f"{problem}; {remedy}")


def _profiles(params: Params) -> Iterator[Fault]:
    profiles = params.ema.profiles
    if len({f"{sigma_rel:.3f}" for sigma_rel in profiles}) < len(profiles):
        problem = "equal to three decimals, which name the snapshots' files"
        yield Fault("ema.profiles", list(profiles), f"{problem}; use two that differ")


def _sampling(params: Params) -> Iterator[Fault]:
    sampler, select, evaluate = params.sampler, params.select, params.evaluate
    if sampler.sigma_min >= sampler.sigma_max:
        remedy = f"use less than {sampler.sigma_max}"
        yield Fault("sampler.sigma_min", sampler.sigma_min, f"must be below sampler.sigma_max; {remedy}")
    t_max = math.atan(sampler.sigma_max / params.network.sigma_d)
    for t_mid in select.t_mid:
        if t_mid >= t_max:
            problem = f"sampling starts at arctan(sampler.sigma_max / network.sigma_d) = {t_max:.4f}"
            yield Fault("select.t_mid", t_mid, f"{problem}; use less")
    yield from _guidance(params)
    if select.coarse is not None and select.coarse > select.samples:
        problem = f"the coarse search would take more than the {select.samples.written} samples of select.samples"
        yield Fault("select.coarse", select.coarse.written, f"{problem}; use less, or null")
    if evaluate.seed < select.samples:
        problem = "evaluation would draw the samples that chose the average"
        yield Fault("evaluate.seed", evaluate.seed, f"{problem}; use select.samples ({select.samples}) or more")
    snapshots = params.ema.snapshots
    if select.progress > snapshots:
        remedy = f"use {snapshots} or less, or raise ema.snapshots"
        yield Fault("select.progress", select.progress, f"more than the {snapshots} snapshots of a run; {remedy}")
    if evaluate.neighbours >= evaluate.samples:
        problem = f"takes more than {evaluate.neighbours} samples, not {evaluate.samples.written}"
        yield Fault("evaluate.neighbours", evaluate.neighbours, f"{problem}; use less, or raise evaluate.samples")
    evaluations = 2 * sampler.teacher_steps - 1
    if evaluate.teacher_few_steps >= evaluations:
        of = f"network evaluations of the teacher's {sampler.teacher_steps} Heun steps"
        problem = f"not fewer than the {evaluations} {of}; use less"
        yield Fault("evaluate.teacher_few_steps", evaluate.teacher_few_steps, problem)


def _guided(params: Params) -> bool:
    """True if the teacher takes a guidance scale."""
    return params.select.guide is not None or bool(params.teacher.label_dropout)


def _guidance(params: Params) -> Iterator[Fault]:
    """Refuses guidance scales that a model is not trained for."""
    scales = params.select.guidance
    for scale in scales.teacher if not _guided(params) else ():
        if scale != 1:
            problem = "a teacher can be guided only if it was trained without labels as well"
            remedy = "set teacher.label_dropout to 0.1, name a select.guide, or write [1.0]"
            yield Fault("select.guidance.teacher", scale, f"{problem}; {remedy}")
    student = params.student
    guided = {name: given for name in student.declared if (given := student.method(name).guidance)}
    guide = params.select.guide
    if guide is not None and set(scales.teacher) == {1} and not any(name in guided for name in student.methods):
        problem = "it would guide nothing, as select.guidance.teacher has only 1 and no student has guidance"
        yield Fault("select.guide", guide, f"{problem}; add scales such as 1.5, or write null")
    ranges = [guided[name] for name in student.methods if name in guided]
    for scale in scales.student:
        if scale != 1 and not guided:  # a method that is switched off counts, so its scales may stay
            problem = "no student takes a guidance scale"
            remedy = "write [1.0], or add guidance: [1.0, 2.0] to a method's block"
            yield Fault("select.guidance.student", scale, f"{problem}; {remedy}")
        elif any(not low <= scale <= high for low, high in ranges):
            low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
            remedy = f"use {low:g} to {high:g}" if low <= high else "make their ranges overlap"
            yield Fault("select.guidance.student", scale, f"outside the guidance of the students; {remedy}")


def _running(params: Params) -> Iterator[Fault]:
    if params.runtime.shard == "full":
        problem = (
            "torch's fully_shard takes a network with its tangent only as a whole, which saves no memory; block by "
            "block, which would, it crashed in a trial (SIGSEGV)"
        )
        yield Fault("runtime.shard", "full", f"{problem}; write optimizer, or auto")
    launcher, runtime = params.runtime.launcher, params.runtime
    if runtime.checkpoint_every is None and runtime.checkpoint_minutes is None:
        problem = "neither images nor minutes say when a training is to be saved"
        yield Fault("runtime.checkpoint_minutes", None, f"{problem}; write 15, or set runtime.checkpoint_every")
    if launcher is None:
        return
    try:
        words = shlex.split(launcher)
    except ValueError as error:
        yield Fault(
            "runtime.launcher", launcher, f"no shell could read it ({error}); close the quotation, or write null"
        )
        return
    if not words[0]:
        yield Fault("runtime.launcher", launcher, "begins with no program; write the program's name, or null")


def _tracking(params: Params) -> Iterator[Fault]:
    uri, name = params.mlflow.uri, params.registered_name
    problem = None if uri is None else addresses.refusal(uri)
    if uri is not None and problem is not None:
        yield Fault("mlflow.uri", addresses.without_secrets(uri), problem)
    if params.mlflow.enabled and not registrable(name):  # publish.name has been checked by its type
        problem = "MLflow refuses it as the name of a registered model, and publish.name is null"
        yield Fault("preset", name, f"{problem}; write publish.name: NAME, without spaces, quotes, /, : and ?")
