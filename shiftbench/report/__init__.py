"""What is made of rows: leaderboard tables, figures, contact sheets."""
