"""Samples of a trained model: its sampler, batches of images, grids."""
