"""Builds the objects that the parameters describe: models, trainings, samplers."""
