"""`scm export --to diffusers`: a folder that diffusers loads with trust_remote_code, fit for the Hugging Face hub.

The network's source is the project's own, joined into one file: diffusers loads a component from one file beside it.
"""

import ast
from pathlib import Path
from typing import Any

from scm.base import weights
from scm.base.files import replacing_folder, write_json, write_text
from scm.data.latents.autoencoders import ZERO_TO_ONE
from scm.data.latents.codec import RANDOM
from scm.errors import UserError
from scm.export.graph import autoencoder_of, network_of
from scm.export.write import README, Wanted
from scm.generation import trained
from scm.report.wording import display_name

SOURCE = Path(__file__).parents[1] / "networks"
PARTS = ("settings", "magnitude", "embedding", "dropout", "layers")
"""Files of scm/networks that every architecture may need, each after those that it uses."""
NETWORK, PIPELINE = Path(__file__).with_name("hub_network.py"), Path(__file__).with_name("hub_pipeline.py")
DIFFUSERS = "0.36"
"""The first version whose SCMScheduler and loading of components with their own code are used here."""


def export_diffusers(wanted: Wanted, folder: Path) -> None:
    """Writes model_index.json, pipeline.py, the components' folders, the card README.md and LICENSE.md.

    Raises:
        UserError: the model is not sampled by consistency sampling, or its decoder is not diffusers' AutoencoderKL.
    """
    loaded, codec = wanted.loaded, wanted.loaded.codec.header
    network = network_of(loaded)
    if not loaded.header.keys().isdisjoint({"segments", "any_steps"}):
        raise UserError(
            f"{loaded.name} jumps from time to time, which diffusers' SCMScheduler does not: use --to torch"
        )
    if codec["name"] not in (*RANDOM, "identity"):
        raise UserError(f"codec {codec['name']}: only AutoencoderKL is exported to diffusers; use --to torch")
    state = {name: value for name, value in network.state_dict().items() if name.startswith("network.")}
    with replacing_folder(folder) as temporary:
        for name in ("network", "scheduler"):
            (temporary / name).mkdir()
        weights.write(temporary / "network/diffusion_pytorch_model.safetensors", state, {"format": "pt"})
        write_json(temporary / "network/config.json", {"_class_name": "ScmNetwork", **configuration(wanted)})
        write_text(temporary / "network/scm_network.py", joined_source(loaded.header["network"]["architecture"]))
        scheduler = {"_class_name": "SCMScheduler", "prediction_type": "trigflow", "sigma_data": loaded.sigma_d}
        write_json(temporary / "scheduler/scheduler_config.json", scheduler)
        if (autoencoder := autoencoder_of(loaded.codec)) is not None:
            autoencoder.vae.save_pretrained(temporary / "vae")
        write_json(temporary / "model_index.json", index(vae=autoencoder is not None))
        write_text(temporary / "pipeline.py", PIPELINE.read_text(encoding="utf-8"))
        write_text(temporary / README, model_card(wanted))
        write_text(temporary / "LICENSE.md", licence_in(wanted.card) + "\n")


def index(vae: bool) -> dict[str, Any]:
    """model_index.json: the pipeline's class, and each component's library (or own file) and class."""
    return {
        "_class_name": ["pipeline", "ScmPipeline"],
        "_diffusers_version": f"{DIFFUSERS}.0",
        "network": ["scm_network", "ScmNetwork"],
        "scheduler": ["diffusers", "SCMScheduler"],
        "vae": ["diffusers", "AutoencoderKL"] if vae else [None, None],
    }


def configuration(wanted: Wanted) -> dict[str, Any]:
    """The arguments of `ScmNetwork`."""
    header, codec = wanted.loaded.header, wanted.loaded.codec.header
    sampling = {}
    for steps in wanted.steps:
        times = trained.times_of(header, steps)
        sampling[str(steps)] = {"guidance": trained.scale_of(header, steps, wanted.guidance), "times": times}
    return {
        "settings": header["network"], "sampling": sampling, "classes": list(wanted.loaded.classes),
        "shape": list(codec["shape"]), "sigma_d": header["sigma_d"], "mean": codec["mean"], "std": codec["std"],
        "zero_to_one": codec["name"] in ZERO_TO_ONE,
    }  # fmt: skip


def joined_source(architecture: str) -> str:
    """The source of the network and of all that it needs of scm, as one module that does not import scm."""
    files = [*(SOURCE / f"{name}.py" for name in PARTS), SOURCE / f"architectures/{architecture}.py", NETWORK]
    imports, bodies = set[str](), []
    for file in files:
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in (tree := ast.parse(text)).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                statement = ast.unparse(node)
                if not statement.startswith("from scm."):
                    imports.add(statement)
                lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
        about = (ast.get_docstring(tree) or "").strip()
        first = tree.body[0].end_lineno or 0  # behind the docstring
        comment = "\n".join(f"# {line}".rstrip() for line in about.splitlines())
        bodies.append(f"{comment}\n\n" + "\n".join(lines[first:]).strip() + "\n")
    head = '"""The network of a model that scm exported; Apache-2.0. Made from files of scm/networks."""\n'
    return "\n\n".join([head + "\n" + "\n".join(sorted(imports)), *bodies])


def licence_in(card: str) -> str:
    """The card's paragraph on the licence."""
    return card.partition("## Licence\n")[2].partition("\n## ")[0].strip() or "The code is under Apache-2.0."


def model_card(wanted: Wanted) -> str:
    """README.md of a repository on the hub: its metadata, how the folder is used, and the model's card."""
    first = f"classes=[{wanted.loaded.classes[0]!r}]" if wanted.loaded.classes else "num_images=1"
    return CARD.format(title=display_name(wanted.loaded.name), first=first, steps=wanted.steps[-1], card=wanted.card)


CARD = f"""\
---
license: other
license_name: code-apache-2.0-weights-see-the-card
license_link: LICENSE.md
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags:
- consistency-model
- trigflow
- scm
---

# How to use this folder

```python
from diffusers import DiffusionPipeline

draw = DiffusionPipeline.from_pretrained(".", trust_remote_code=True)
image = draw({{first}}, num_inference_steps={{steps}}).images[0]
```

The model is {{title}}; it needs torch and diffusers {DIFFUSERS} or later, not scm.
trust_remote_code lets diffusers run pipeline.py and network/scm_network.py, which lie here to be read.
With `generator=[torch.Generator().manual_seed(seed), ...]`, one for each image, the images are those of `scm sample`.
The network computes in float32.

{{card}}"""
