"""What would be started, as a value."""
