"""Getting a system to run: its card, environment, weights and process."""
