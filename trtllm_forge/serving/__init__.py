"""Serves built repositories: plans, records, running servers and model changes."""
