"""HTML that opens from disk: the leaderboard, its rows, clouds and the attention viewer."""
