"""Tests against a real Triton."""
