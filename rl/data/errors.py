"""What is wrong with a data set."""


class DataError(ValueError):
    """A file or row that can't be used. The message is one line that names it."""
