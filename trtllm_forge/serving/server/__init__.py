"""A server that runs, owned by this process."""
