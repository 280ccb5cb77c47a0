"""Cells for loops over time of one's own, and modules of one's own as cells."""
