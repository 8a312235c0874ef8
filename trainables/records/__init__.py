"""What a trial leaves: its rows, the three tables, which trials are compared."""
