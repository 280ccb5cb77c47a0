"""Measurements and searches, to be run by hand."""
