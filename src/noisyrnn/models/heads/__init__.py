"""What is read from a recurrent layer: one answer for each sequence, or one for each step."""

from noisyrnn.models.heads.classifier import SequenceClassifier
from noisyrnn.models.heads.regressor import SequenceRegressor
from noisyrnn.models.heads.sequence import SequenceToSequence

Head = SequenceClassifier | SequenceRegressor | SequenceToSequence

HEADS: dict[str, type[Head]] = {
    "classifier": SequenceClassifier,
    "regressor": SequenceRegressor,
    "sequence": SequenceToSequence,
}

__all__ = ["HEADS", "Head", "SequenceClassifier", "SequenceRegressor", "SequenceToSequence"]
