"""Cells for user-written loops over time, and user modules as cells."""
