"""Checkpoints: naming them, fetching them from the Hub, reading files and geometry."""
