"""What very many images cost before any is read: `python benchmarks/listing.py [--images 100000]`; Linux.

Tiny PNGs (16 x 16, 4 KiB each on most disks) lie in 1,000 class folders, and then in one tar of these.
For both it measures, each in a process of its own, and prints its seconds and the peak of its memory, imports included:

- how `prepare` lists them;
- how a stage hashes them for its fingerprint when it first starts, and when it starts again;
- how `dvc repro` runs a stage (`true`) that depends on them, and how it finds that there is nothing to do;
- `dvc status`.

--images 1280000 needs 8 GB and as many inodes.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from scm.data.reading.source import Wanted, open_source
from scm.results.fingerprint import content_hash
from scm.results.provenance import machine_name

CLASSES, DIFFERENT = 1000, 64
POLL_SECONDS = 0.02
PIPELINE = "stages:\n  one:\n    cmd: 'true'\n    deps: [{name}]\n"
DVC = ("-m", "dvc")


def make(folder: Path, count: int) -> None:
    """Writes `count` images as a folder."""
    draws, files = np.random.default_rng(0), []
    for _ in range(DIFFERENT):
        buffer = io.BytesIO()
        Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, format="PNG")
        files.append(buffer.getvalue())
    for label in range(min(CLASSES, count)):
        (folder / f"n{label:08d}").mkdir(parents=True)
    for number in range(count):
        label = number % CLASSES
        (folder / f"n{label:08d}" / f"n{label:08d}_{number}.png").write_bytes(files[number % DIFFERENT])


def measured(command: list[str], place: Path) -> tuple[float, float]:
    """Seconds of a command and the peak of its memory in MiB."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(place / "site")}
    started, peak = time.perf_counter(), 0
    with subprocess.Popen([sys.executable, *command], cwd=place, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
            peak = max(peak, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
            time.sleep(POLL_SECONDS)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, peak / 1024


def one(step: str, path: Path) -> None:
    """Does one step of the program; `path` is data.path."""
    if step == "list":
        with open_source(Wanted("folder", path, True, 2**20, "error")) as source:
            assert len(source.classes) == min(CLASSES, len(source))
    else:
        content_hash(path, path.parent / "hashes")


def steps(name: str) -> dict[str, list[str]]:
    """The commands to measure, by what they do."""
    return {
        "prepare lists them": [__file__, "--one", "list", name],
        "a stage hashes them, first": [__file__, "--one", "hash", name],
        "a stage hashes them, again": [__file__, "--one", "hash", name],
        "dvc repro, first": [*DVC, "repro"],
        "dvc repro, nothing to do": [*DVC, "repro"],
        "dvc status": [*DVC, "status"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to put the images (default: the temporary folder)")
    parser.add_argument("--one", nargs=2, metavar=("STEP", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one(options.one[0], Path(options.one[1]).absolute())
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    print(f"{machine_name()}; {options.images:,} images\n")
    print("| of | step | seconds | memory, MiB |\n|---|---|---:|---:|")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        place = Path(temporary)
        make(place / "images", options.images)
        measured([*DVC, "init", "--no-scm", "--quiet"], place)
        for name in ("images", "images.tar"):
            if name == "images.tar":  # packed as the program advises it
                subprocess.run(["tar", "-cf", name, "-C", "images", "."], cwd=place, check=True)
            time.sleep(3)  # files as new as that would not be trusted
            (place / "dvc.yaml").write_text(PIPELINE.format(name=name), encoding="utf-8")
            for step, command in steps(name).items():
                seconds, mebibytes = measured(command, place)
                print(f"| {name} | {step} | {seconds:.1f} | {mebibytes:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
