"""What the port adds and the original has not."""
