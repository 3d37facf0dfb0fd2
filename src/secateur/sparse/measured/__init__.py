"""What was measured about this machine, and how to measure side by side."""
