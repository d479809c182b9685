"""The settings of a run: schema, loading with provenance, checks and texts about them. Never imports torch."""
