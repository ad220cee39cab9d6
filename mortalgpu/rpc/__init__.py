"""gRPC over Trio."""
