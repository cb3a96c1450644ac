"""Ways to train the same trials, one a file. Each is a program of its own, so that its time is counted from start to exit."""
