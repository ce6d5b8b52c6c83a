"""What stands around DVC: a stage's frame, the plan, the supervised run, clones of the project."""
