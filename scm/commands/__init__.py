"""The sub-commands of `scm`: one file each, its parser beside its handler."""
