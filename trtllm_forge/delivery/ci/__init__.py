"""Workflows for CI systems, and Markdown summaries of forge's JSON documents."""
