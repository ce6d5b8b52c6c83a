"""Measure generated images: Frechet distance, kernel distance, precision, recall and accuracy."""
