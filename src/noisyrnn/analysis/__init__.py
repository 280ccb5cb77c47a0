"""The quantities the theory speaks of, each returned as a `Measurement`."""
