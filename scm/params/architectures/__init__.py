"""The settings that each architecture accepts: one file for each in scm/networks/architectures, without torch.

`MODULATIONS` lists the network's modulations. `AUGMENTED` is true if the network can be told of augmentation; without
it, it cannot. `faults` yields the faults of the section `network` that only this architecture has. `divisor` says what
divides the resolution of the network's input, and `attention` yields the faults of attention at such a resolution. A
file with a leading underscore is no architecture.
"""
