"""The settings that each architecture accepts: one file for each in scm/networks/architectures, without torch.

`MODULATIONS` lists the network's modulations. `faults` yields the faults of the section `network` that only this
architecture has.
"""
