"""What the original gets from Julia packages, one module per package."""
