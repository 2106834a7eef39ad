"""What a process may use of its machine, and copies to and from its accelerator."""
