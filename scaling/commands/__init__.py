"""The commands: each module parses, calls one library function and prints."""
