"""The training loss around the weights: its Hessian, spectrum, trace and landscape."""
