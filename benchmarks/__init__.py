"""Benchmarks: scripts that print figures. Side by side in one run, each contender in a fresh process, values asserted."""
