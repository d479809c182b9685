"""The one exception that ends a program with a single line instead of a traceback."""


class UserError(Exception):
    """Something the user can mend: the message is one line that says what is wrong and what to do."""
