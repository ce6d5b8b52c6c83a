"""Where images come from: one file for each value of data.source."""
