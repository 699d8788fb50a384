"""This machine: its GPUs and memory, the processes forge starts, and where tools run."""
