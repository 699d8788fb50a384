"""Clients of Triton's protocols: HTTP, gRPC, TLS."""
