"""What a cluster can do with a run: budget, parallel layout, memory, time and serving."""
