"""`scm compare`: two results side by side, and whether one is better by more than the noise."""
