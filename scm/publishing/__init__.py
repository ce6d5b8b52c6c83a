"""The gate before the registry of models: candidate, verdict, promotion, rollback."""
