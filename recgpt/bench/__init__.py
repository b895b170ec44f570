"""Timing, results and plots for the scripts under benchmarks/."""
