"""Models that are changed while a server runs."""
