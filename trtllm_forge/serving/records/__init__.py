"""Records of running and ended servers."""
