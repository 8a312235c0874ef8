"""How a trial trains: batches, schedule, optimizer, evaluation, and the loop over epochs."""
