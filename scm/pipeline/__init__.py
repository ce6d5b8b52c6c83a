"""The pipeline around DVC: a stage's frame, the plan, the supervised run, imports, copies of the project."""
