"""What the sources share: archives and folders, decoding, cropping, and what a source returns."""
