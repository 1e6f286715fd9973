"""Plans written for training stacks, read back and checked by the stacks' own code."""
