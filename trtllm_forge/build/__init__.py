"""A build from MODEL to a model repository."""
