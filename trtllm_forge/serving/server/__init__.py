"""A running server, owned by this process."""
