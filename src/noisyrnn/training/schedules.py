"""The learning rate and the factor of the noise in each epoch."""

from noisyrnn.training.config import TrainConfig


def learning_rate_at(config: TrainConfig, epoch: int) -> float:
    """Learning rate of epoch number `epoch`, counted from 1: it decays after each of `decay_epochs`."""
    return config.learning_rate * config.decay_factor ** sum(epoch > last for last in config.decay_epochs)


def noise_factor_at(config: TrainConfig, epoch: int) -> float:
    """Factor of all noise in epoch number `epoch`: 1, or the learning rate's where the noise is annealed with it."""
    return 1.0 if config.noise_schedule == "constant" else learning_rate_at(config, epoch) / config.learning_rate
