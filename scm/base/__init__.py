"""Small things that every room may use: files, randomness, processes, the project's place."""
