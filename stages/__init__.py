"""The pipeline's stages: thin commands that DVC runs."""
