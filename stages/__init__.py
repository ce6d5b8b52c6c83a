"""The pipeline's stages: one thin command each, run by DVC."""
