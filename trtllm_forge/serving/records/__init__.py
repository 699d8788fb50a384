"""What is known of servers that run, or did."""
