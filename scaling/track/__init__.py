"""The log of the big run beside the curve that its plan predicts."""
