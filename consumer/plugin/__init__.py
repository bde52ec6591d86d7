"""Handlers: what they get, what they may raise, and how they are found."""
