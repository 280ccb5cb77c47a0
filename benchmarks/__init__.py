"""Measurements and searches that are run by hand."""
