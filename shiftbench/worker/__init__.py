"""What runs in the processes of a pool: data tasks (and scoring) in one kind, training and methods in the other."""
