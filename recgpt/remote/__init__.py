"""Calls to servers: deadline, retries, hedging, balance. Knows neither the model nor the protocol."""
