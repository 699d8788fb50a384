"""Starting Triton: its installations, arguments, ranks, containers and log."""
