"""The training stacks: one file each says how a plan is written there, and what that stack cannot say."""
