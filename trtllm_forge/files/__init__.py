"""Files: digests, writing whole or not at all, private files, and what ships with forge."""
