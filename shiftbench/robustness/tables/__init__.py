"""One table per question, from the rows of a run: a CSV file and a section beside the leaderboard each."""
