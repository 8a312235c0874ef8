"""From the tables of a sweep to its answer: statistics, figures, summary and report.html."""
