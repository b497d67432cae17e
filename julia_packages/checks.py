"""What all modules share: a check of an integer, and a value as a message shows it."""

import operator


def check_integer(name, value, minimum=None):
    """Return `value` as int; ValueError if it is no integer (bool and float included) or below `minimum`."""
    allowed = "an integer" if minimum is None else f"an integer >= {minimum}"
    try:
        number = int(operator.index(value))
    except Exception:  # exotic scalars raise more than TypeError
        number = None
    if number is None or isinstance(value, bool) or (minimum is not None and number < minimum):
        raise ValueError(f"{name} must be {allowed}, got {shown(value)}")
    return number


def shown(value):
    """repr(value) for a message, at most about 60 characters."""
    try:
        text = repr(value)
    except Exception:
        if not isinstance(value, int):
            return f"a {type(value).__name__}"
        text = f"an integer of {value.bit_length()} bits"  # Python prints no int of more than 4300 digits
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
