"""The files under results/: where they lie, how they are read, what they follow from."""
