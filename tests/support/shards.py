"""Small sets of image shards."""

from itertools import islice

import numpy as np

from scm.base.files import replacing_folder
from scm.data.shards.shards import FORMAT, LABELS, encode_png, finish, write_tar


def write_shards(samples, folder, shard_images, **header):
    """Writes (key, uint8 [H, W, C], label) as the stage `prepare` does; returns the index."""
    samples, shards, labels, shape = iter(samples), [], [], None
    with replacing_folder(folder) as temporary:
        while some := list(islice(samples, shard_images)):
            path = temporary / f"{len(shards):06d}.tar"
            encoded = [(key, encode_png(pixels), label) for key, pixels, label in some]
            shards.append({"file": path.name, **write_tar(encoded, path, "png")})
            labels += [label for _, _, label in some]
            shape = list(some[0][1].shape)
        np.save(temporary / LABELS, np.array(labels, dtype=np.int64))
        index = {"format": FORMAT, "kind": "images", "count": len(labels), "shape": shape, "dtype": "uint8"}
        return finish({**index, "shards": shards, **header}, temporary)
