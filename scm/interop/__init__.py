"""Other projects' networks, read without running anything of theirs."""
