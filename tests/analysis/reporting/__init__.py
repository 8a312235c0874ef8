"""A package, so that its conftest.py and the one of all tests are two modules to mypy."""
