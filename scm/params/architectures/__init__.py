"""What params.yaml may ask of each architecture: one file for each of scm/networks/architectures, without torch.

`MODULATIONS` are those that the network has; `faults` yields what else of the block `network` it cannot be built from.
"""
