"""What is done to a store between runs: plain functions of a URL."""
