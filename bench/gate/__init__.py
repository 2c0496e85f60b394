"""The regression gate: frozen predictions, fresh runs and times, against a baseline kept in the repository."""
