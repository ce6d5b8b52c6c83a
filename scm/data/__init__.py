"""Images to what the networks are trained on: sources, crop, shards, codec and a loader with an exact position."""
