"""What a message says: bytes to values, pure and total. Any input gives a value or one reason."""
