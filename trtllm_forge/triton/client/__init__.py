"""Triton's protocols as a client speaks them: HTTP, gRPC, TLS."""
