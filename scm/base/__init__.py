"""Basics for all rooms: files, weights, randomness, processes, progress, the registry of parts."""
