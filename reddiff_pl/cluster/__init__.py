"""What starts and watches tasks on hosts and clusters."""
