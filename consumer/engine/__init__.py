"""The life of a message, from a free slot to its end."""
