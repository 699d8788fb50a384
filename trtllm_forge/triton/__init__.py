"""Triton itself: its model repositories, its installations, starting it and its clients."""
