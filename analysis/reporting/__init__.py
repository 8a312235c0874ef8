"""The answer in words, the summary on the terminal, and the page."""
