"""The one exception for what a user got wrong.

Its message is a single line, "`argument` must <rule>, got <value>; <way out>", and the command line prints
it as it is and exits with status 2. Everything else that is raised is a defect and keeps its traceback.
"""


class UserError(ValueError):
    """A mistake in what was asked for; the message says what is wrong and what is allowed."""
