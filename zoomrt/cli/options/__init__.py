"""What a user types: numbers, sizes, numbered names."""
