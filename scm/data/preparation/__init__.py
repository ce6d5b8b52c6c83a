"""Images to shards: stage prepare."""
