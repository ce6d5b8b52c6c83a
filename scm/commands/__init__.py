"""The commands of `scm`: one file each, with the parser beside the handler; heavy imports stay in the handlers."""
