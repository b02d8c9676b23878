"""What is done with results that are kept: plans read again, keys explained, scores made anew, tables, estimates."""
