"""The check of a list of strengths."""

from noisyrnn.checks import check_number


def check_strengths(name: str, strengths: object) -> None:
    """Raise unless `strengths` is a non-empty list or tuple of finite numbers `>= 0`; `name` is what it is called."""
    if not isinstance(strengths, list | tuple):
        number = isinstance(strengths, int | float) and not isinstance(strengths, bool)
        example = f"[{strengths}]" if number else "[0.1, 0.2]"
        raise TypeError(f"{name} must be a list of numbers, got {strengths!r}. Write {example}.")
    if len(strengths) == 0:
        raise ValueError(f"{name} must hold at least one number, got {strengths!r}. Write [0.1, 0.2].")
    for index, strength in enumerate(strengths):
        check_number(f"{name}[{index}]", strength, minimum=0)
