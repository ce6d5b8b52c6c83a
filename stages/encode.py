"""Encodes the image shards to latent shards, on which the networks are trained, and keeps the codec for decoding."""

from scm.base.distributed import Ranks
from scm.build.models import device_of
from scm.data.latents.autoencoders import Pretrained, check_fits, codec_path, description, read_autoencoder, save_codec
from scm.data.latents.codec import Codec, normalized, plain_header
from scm.data.latents.encoding import encode_shards, join, measured, wait_for
from scm.data.shards.shards import read_index
from scm.pipeline.ranks import own_threads
from scm.pipeline.stage import Stage, main


def run(stage: Stage) -> None:
    settings, shards = stage.params.codec, stage.root / "data/shards"
    ranks = Ranks.apart(device_of(stage.params.runtime))
    index, content, autoencoder, about = read_index(shards), None, None, None
    shape = [index["channels"], index["resolution"], index["resolution"]]
    if settings.name != "identity":
        path = codec_path(settings.path, stage.root)
        content = read_autoencoder(settings.name, path, settings.sha256)
        autoencoder = Pretrained(settings.name, content, settings.precision, ranks.device)
        check_fits(autoencoder, settings.channels, str(path))
        about = description(content, settings.precision)
        shape = stage.params.shape
    plain = plain_header(settings.name, stage.params.network.sigma_d, shape, about)
    stage.work.mkdir(parents=True, exist_ok=True)
    codec = Codec(plain, autoencoder)
    # The processes divide the shards; the first one waits for all of them and joins the parts.
    threads = own_threads(stage.params.runtime.threads)
    encode_shards(shards, stage.work, codec, settings.stored, ranks.rank, ranks.world, stage.progress, threads)
    if ranks.rank:
        return
    wait_for(stage.work, shards)
    statistics, psnr = measured(stage.work, shards)
    header = normalized(plain, settings.normalize, statistics)
    written = join(stage.work, shards, stage.root / "data/latents", header)
    save_codec(stage.root / "data/codec", header, content)
    stage.progress(f"{written['count']} images encoded by the codec {settings.name}")
    figures: dict[str, float] = {"images": written["count"]}
    for channel, (mean, std) in enumerate(zip(statistics.mean.tolist(), statistics.std, strict=True)):
        figures |= {f"mean_{channel}": mean, f"std_{channel}": std}
    if psnr:
        figures["psnr"] = sum(psnr) / len(psnr)
    stage.extra["device"] = ranks.device.type
    stage.figures(figures)


if __name__ == "__main__":
    main(run, "encode", training=True)
