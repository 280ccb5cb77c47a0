"""Margins: distances of sequences from misclassification, exact, estimated, certified or by attacks."""
