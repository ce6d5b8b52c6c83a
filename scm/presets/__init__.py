"""Named sets of values for params.yaml, and the paper's figures beside them."""
