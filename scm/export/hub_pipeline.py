"""Draws images in few steps with a continuous-time consistency model (arXiv 2410.11081); needs torch and diffusers."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class ScmPipeline(DiffusionPipeline):
    """Noise to images by consistency sampling.

    Args:
        network: F(x_t / sigma_d, t, labels).
        scheduler: diffusers' SCMScheduler.
        vae: decodes latents; None for a model of pixels.
    """

    model_cpu_offload_seq = "network->vae"
    _optional_components = ["vae"]  # noqa: RUF012 (diffusers reads it from the class)

    def __init__(self, network: Any, scheduler: Any, vae: Any = None) -> None:
        super().__init__()
        self.register_modules(network=network, scheduler=scheduler, vae=vae)

    @torch.no_grad()
    def __call__(
        self,
        classes: Sequence[int | str] | None = None,
        num_images: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draws images.

        Args:
            classes: names or numbers, which take turns; None = all of them.
            num_images: None = one for each class.
            num_inference_steps: a number of steps that the model has; None = its most.
            guidance_scale: None = the one chosen for these steps.
            generator: one, or a list with one for each image, so that an image does not depend on the others.
            output_type: pil, or pt for uint8 [N, C, H, W].
        """
        facts = self.network.config
        chosen = [self._number(each) for each in (classes or facts.classes)] or [-1]
        count = num_images or len(chosen)
        steps = str(num_inference_steps or max(map(int, facts.sampling)))
        if steps not in facts.sampling:
            raise ValueError(f"num_inference_steps {steps}: this model has {', '.join(facts.sampling)}")
        if guidance_scale is not None and not facts.settings["guidance"]:
            raise ValueError("guidance_scale: this model was not trained for guidance")
        device, dtype, sigma_d = self._execution_device, torch.float32, facts.sigma_d
        labels = torch.tensor([chosen[i % len(chosen)] for i in range(count)], device=device)
        scale = None
        if facts.settings["guidance"]:
            value = facts.sampling[steps]["guidance"] if guidance_scale is None else guidance_scale
            scale = torch.full((count,), float(value), device=device)
        # The scheduler's step is consistency sampling in TrigFlow: x_0 = cos t x - sin t sigma_d F, and fresh noise.
        self.scheduler.set_timesteps(
            int(steps),
            timesteps=[*facts.sampling[steps]["times"], 0.0],
            max_timesteps=None,
            intermediate_timesteps=None,
            device=device,
        )
        x = randn_tensor((count, *facts.shape), generator, device, dtype) * sigma_d
        sample = x
        progress: Any = self.progress_bar
        for t in progress(self.scheduler.timesteps[:-1]):
            output = self.network(x / sigma_d, t.expand(count), labels, scale)
            x, sample = self.scheduler.step(sigma_d * output, t, x, generator, return_dict=False)
        pixels = self._decoded(sample)
        images: Any = pixels if output_type == "pt" else self._pictures(pixels)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _number(self, asked: int | str) -> int:
        names = self.network.config.classes
        number = names.index(asked) if asked in names else asked
        if not isinstance(number, int) or not 0 <= number < len(names):
            raise ValueError(f"class {asked}: this model has {', '.join(names) or 'no classes'}")
        return number

    def _decoded(self, samples: torch.Tensor) -> torch.Tensor:
        """uint8 [N, C, H, W]."""
        facts = self.network.config
        mean, std = (torch.tensor(each, device=samples.device).view(-1, 1, 1) for each in (facts.mean, facts.std))
        pixels = samples / (facts.sigma_d / std) + mean
        if self.vae is not None:
            pixels = self.vae.decode(pixels.to(self.vae.dtype)).sample.float()
            pixels = 2 * pixels - 1 if facts.zero_to_one else pixels
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()

    @staticmethod
    def _pictures(pixels: torch.Tensor) -> list[Any]:
        from PIL import Image

        return [Image.fromarray(image.squeeze(2).numpy()) for image in pixels.permute(0, 2, 3, 1).contiguous()]
