"""The errors that the ops and the layouts raise."""


class UnsupportedInputError(ValueError):
    """The input is malformed, or the chosen backend cannot run it. The message says what would work."""
