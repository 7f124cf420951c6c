"""The shared harness: data, training, tasks, statistics and reports; it knows no concrete method."""
