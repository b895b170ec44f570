"""Recall as one request to a server: what goes over the wire, without the wire."""
