"""Training: one loop for every objective, its schedule, its checkpoints and its health figures."""
