"""What the trainings of presets need of a GPU's memory: `python benchmarks/memory.py [--presets imagenet512-s ...]`.

The tables are those of `scm plan --memory`, with `auto` for all settings of `runtime`: GiB of state + of activations on
each GPU (images at a time; * = blocks computed again in the backward pass). A batch is the preset's own. No data and no
GPU are needed.
"""

import argparse
import sys
from pathlib import Path

from scm.base.tables import markdown_table
from scm.build.memory_table import fits, remarks, rows
from scm.errors import UserError
from scm.presets import apply, table

ROOT = Path(__file__).parents[1]
CLASSES = {"imagenet64": 1000, "imagenet512": 1000}
"""Classes of the paper's data sets; the others have none."""


def main() -> None:
    known = {row.name: CLASSES.get(row.data, 0) for row in table.entries(ROOT) if row.parameters}  # the paper's
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=list(known), help="default: the paper's")
    for name in parser.parse_args().presets:
        params = apply.preview(ROOT / "params.yaml", ROOT, name)
        found = fits(params, known.get(name, 0))
        head, cells = rows(found)
        print(f"{name}, batch {params.student.common.batch:,}:\n\n{markdown_table(head, cells, 'lrrrrrr')}\n")
        for line in remarks(params, found):
            print(f"- {line}")
        print(flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
