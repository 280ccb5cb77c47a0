"""How far sequences are from being misclassified: exactly, estimated, certified, attacked."""
