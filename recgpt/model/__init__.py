"""The decoder, its checkpoint and prompt generation (needs torch)."""
