"""Charts: lines for the report's page, panels for a study."""
