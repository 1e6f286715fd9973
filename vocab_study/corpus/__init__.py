"""Text from files or the standard library, in two splits without duplicates."""
