"""Each batch size tuned separately by Optuna, then compared."""
