"""Changes the models of a running server."""
