"""The life of a message, from its receipt to its acknowledgement; ``process`` has it on one screen."""
