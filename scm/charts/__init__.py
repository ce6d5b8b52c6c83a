"""Charts: lines in the report's page, panels of a study."""
