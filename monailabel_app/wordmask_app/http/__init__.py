"""The routes, and what they answer."""
