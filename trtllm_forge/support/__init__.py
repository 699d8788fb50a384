"""What this machine and each release can do."""
