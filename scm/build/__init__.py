"""Parameters to objects: the only factory."""
