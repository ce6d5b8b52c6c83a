"""What params.yaml may ask of each architecture: one file for each of scm/networks/architectures, without torch.

A file says which `MODULATIONS` its network has; its `faults` yields what else of the block `network` cannot be built.
"""
