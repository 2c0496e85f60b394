"""Trees, the auction and the loops of registration, compiled by numba."""
