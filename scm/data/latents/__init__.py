"""Latents or pixels, which the networks are trained on: encoded, normalised and decoded."""
