"""Objectives compute a loss for each sample of a batch. Each method of params.yaml has one file with its name."""
