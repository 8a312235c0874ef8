"""The measures of a trial: by name, with their costs, as rows."""
