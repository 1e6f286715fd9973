"""What a parallel layout takes: bytes on each GPU, seconds a step, and the search over all layouts."""
