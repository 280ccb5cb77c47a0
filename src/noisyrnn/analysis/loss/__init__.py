"""Curvature of the training loss: Hessian, spectrum, trace and landscape."""
