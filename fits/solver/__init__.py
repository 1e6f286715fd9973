"""The solver: any law's global optimum, proved by its gradient, for one data set or thousands of resamples at once."""
