"""How Triton is started: where it is, its arguments, ranks, containers and its log."""
