"""Triton: model repository, launcher for machines without one, stand-in backend."""
