import pytest

from noisyrnn.robustness import check_strengths


def test_lists_and_tuples_pass():
    check_strengths("strengths", [0, 0.1])
    check_strengths("strengths", (0.3,))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0.1, TypeError, r"^strengths must be a list of numbers, got 0\.1\. Write \[0\.1\]\.$"),
        ("0.1", TypeError, r"^strengths must be a list of numbers, got '0\.1'\. Write \[0\.1, 0\.2\]\.$"),
        (None, TypeError, r"^strengths must be a list of numbers, got None\. Write \[0\.1, 0\.2\]\.$"),
        ([], ValueError, r"^strengths must hold at least one number, got \[\]\. Write \[0\.1, 0\.2\]\.$"),
        ([0.1, -0.2], ValueError, r"^strengths\[1\] must be at least 0, got -0\.2\.$"),
        ([0.1, "0.2"], TypeError, r"^strengths\[1\] must be a number, got '0\.2'\.$"),
        ([True], TypeError, r"^strengths\[0\] must be a number, got True\.$"),
    ],
)
def test_messages(value, error, message):
    with pytest.raises(error, match=message):
        check_strengths("strengths", value)
