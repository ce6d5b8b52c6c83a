"""The files under results/: their paths, how they are read, and what they follow from."""
