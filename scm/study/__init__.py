"""Studies, such as the paper's ablations, as DVC experiments."""
