"""Files: digests, locks, atomic writes, private files, and the files that ship with forge."""
