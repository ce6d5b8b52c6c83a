"""Crops the images to one square size and writes WebDataset shards, with an index of counts, labels and hashes."""

import os
import shlex
from pathlib import Path

from scm.base.files import replacing_folder, write_json
from scm.data.latents.autoencoders import codec_path, weight_files
from scm.data.preparation.ingest import Plan, Workers, assemble, ingest
from scm.data.preparation.summary import account, colour_advice, contact_sheet, real_images, summary, write_skipped
from scm.data.reading.held_out import divided
from scm.data.reading.source import Wanted, open_source
from scm.data.shards.shards import HELD_OUT, held_out_of, read_index
from scm.generation.grids import save_grid, scale_for
from scm.pipeline.ranks import own_threads
from scm.pipeline.stage import Stage, main

ROWS, COLUMNS = 4, 10
"""Rows and most columns of real.png, which the report shows beside the models' samples."""
MANY_FILES = 100_000
"""Files in a folder above which a tar of them is advised."""


def run(stage: Stage) -> None:
    data, codec, shards = stage.params.data, stage.params.codec, stage.root / "data/shards"
    if codec.name != "identity":  # find missing weights now, not hours later in `encode`
        weight_files(codec.name, codec_path(codec.path, stage.root))
    wanted = Wanted(data.source, stage.root / data.path, data.labels, data.max_pixels, data.on_bad_image)
    plan = Plan(data.resolution, data.channels, data.on_bad_image, data.shard_images)
    workers = workers_of(stage.params.runtime.threads)
    with open_source(wanted) as source:
        stage.progress(f"{len(source):,} images in {source.name}, {len(source.classes)} classes")
        if advice := tar_advice(wanted, data.path, len(source)):
            stage.progress(advice)
        training, held_out = divided(source, data.held_out)
        ingest(training, plan, stage.work, workers, stage.progress, stage.stopping)
        if held_out is not None:
            ingest(held_out, plan, stage.work / HELD_OUT, workers, stage.progress, stage.stopping)
        if workers.rank:
            return
        index, tally = assemble(training, plan, stage.work, shards, held_out)
    aside = held_out_of(shards)
    held = 0 if aside is None else read_index(aside)["count"]
    samples = stage.root / "results/samples/prepare"
    with replacing_folder(samples) as folder:
        contact_sheet(shards, index).save(folder / "contact.png")
        columns = min(len(index["classes"]), COLUMNS) or COLUMNS
        real = real_images(shards, index, columns, ROWS)
        save_grid(folder / "real.png", real, columns, scale_for(real.shape[2]))
        write_json(folder / "data.json", summary(index, tally, held))
        write_skipped(tally.skipped, folder / "skipped.jsonl")
    if advice := colour_advice(index, tally, held):
        stage.progress(advice)
    stage.progress(account(index, tally, held))
    stage.progress("results/samples/prepare/contact.png shows some of them: look at it before you train")
    figures = {"images": index["count"], "classes": len(index["classes"]), "skipped": len(tally.skipped)}
    stage.figures(figures | ({"held_out": held} if held else {}))


def tar_advice(wanted: Wanted, path: str, count: int) -> str | None:
    """A line for people if very many images (`count`) lie one by one in a folder; `path` is data.path."""
    if count <= MANY_FILES or wanted.source != "folder" or not wanted.path.is_dir():
        return None
    folder, tar = Path(path), f"{Path(path)}.tar"
    command = f"tar -cf {shlex.quote(tar)} -C {shlex.quote(str(folder))} ."
    return f"DVC looks at each file of a folder at every run; one tar is faster: `{command}`, then data.path: {tar}"


def workers_of(threads: int | None) -> Workers:
    """This process's rank among those of torchrun, and its share of the machine's cores."""
    rank, world = (int(os.environ.get(name, default)) for name, default in PLACE)
    return Workers(own_threads(threads), rank, world)


PLACE = (("RANK", "0"), ("WORLD_SIZE", "1"))
"""torchrun's variables, with the values for a single process."""


if __name__ == "__main__":
    main(run, "prepare")
