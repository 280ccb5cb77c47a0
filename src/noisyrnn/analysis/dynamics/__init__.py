"""Dynamics of the hidden state: Jacobians, Lyapunov exponents, stability."""
