"""The desktop window and its screens; nothing outside of it knows pygame."""
