"""The extractors of features: one file for each value of `reference.extractor`, found by its name.

Such a file has

- `load_extractor(folder, resolution, device)`, which reads what its `Extractor.save` wrote;
- `read_extractor(given)`, which reads somebody else's weights and returns the extractor and their SHA-256, or
  `train_extractor(...)`, which trains its own; the latter's parameters are the block of its name in `reference`;
- `EDM2_STATISTICS`, what EDM2's files of statistics call its distance; None = they have none for it.
"""
