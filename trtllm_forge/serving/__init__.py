"""Acts on a built repository: serve it, probe what is served, ask it for a completion."""
