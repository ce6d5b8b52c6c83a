"""Objectives: from a model and a batch to a loss for each sample. One file for each method, named as in params.yaml."""
