"""Triton itself: its model repositories, where it is, how it is started and spoken to."""
