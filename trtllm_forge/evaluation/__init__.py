"""Whether a served model answers right."""
