"""Samplers: pure functions of a model, its noise and its times."""

from scm.samplers.consistency import consistency
from scm.samplers.guidance import guided
from scm.samplers.multistep import jumps, multistep
from scm.samplers.noise import SampleNoise
from scm.samplers.ode import ddim, edm_sigmas, heun

__all__ = ["SampleNoise", "consistency", "ddim", "edm_sigmas", "guided", "heun", "jumps", "multistep"]
