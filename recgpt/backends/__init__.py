"""One contract, several ways to run the graphs."""
