"""Workflows for CI systems, and forge's own JSON documents as Markdown for their summaries."""
