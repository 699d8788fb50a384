"""Requests to a served text model."""
