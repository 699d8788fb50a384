"""Checkpoints: what MODEL may be, the Hub, and the files, shape and tokens of one."""
