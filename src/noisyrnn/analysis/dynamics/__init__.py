"""How states, gradients and noise move: Jacobians, Lyapunov exponents, stability."""
