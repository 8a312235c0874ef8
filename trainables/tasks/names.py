"""The names of the built-in tasks, for those that do without PyTorch."""

TASKS = ("classification", "language", "regression", "multilabel", "binary")
DIRECTIONS = ("higher", "lower")
OF_CLASS_NUMBERS = ("classification", "language")  # labels are integers from 0 to the number of classes - 1
PADDED = -100  # the label of a token that has none, for `language`
