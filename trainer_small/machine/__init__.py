"""What a process gets from the machine it runs on."""
