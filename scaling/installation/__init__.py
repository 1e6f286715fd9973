"""What is installed: optional packages, and a check of the machine."""
