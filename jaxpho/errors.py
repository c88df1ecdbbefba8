"""The one exception that means "your input is wrong", shown without a traceback."""


class InputError(ValueError):
    """Input that cannot be used: the message is one sentence for the user.

    It names the file, extension, column, band or key, what was found and what was expected.
    The command line prints it and exits with code 2.
    """
