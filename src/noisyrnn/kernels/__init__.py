"""The loop over time."""
