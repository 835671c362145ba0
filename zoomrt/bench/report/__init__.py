"""Results of a benchmark for people: table, plots, page."""
