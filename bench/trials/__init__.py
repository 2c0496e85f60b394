"""What is run and what is kept: suites, plans, records, the store."""
