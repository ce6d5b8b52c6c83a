"""Few-step image generation with continuous-time consistency models (arXiv 2410.11081).

The numerics (`scm.trigflow`, `scm.networks`, `scm.jvp`, `scm.objectives`, `scm.samplers`) need torch and numpy alone.
"""

__version__ = "0.1.0"
