"""`scm retrain`: the cycle that a schedule starts."""
