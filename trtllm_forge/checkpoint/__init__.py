"""Checkpoints: naming them, fetching them from the Hub, and reading their files and geometry."""
