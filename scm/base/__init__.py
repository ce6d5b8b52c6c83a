"""Basics for every room: files, weights, randomness, processes, progress, the registry of parts."""
