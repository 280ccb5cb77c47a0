"""The transfer matrix: which training makes a model robust to what, trained with × tested with, on MNIST."""
