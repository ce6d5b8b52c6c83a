"""Draws samples from trained models: samplers, batches of images, grids."""
