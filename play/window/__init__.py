"""The desktop window and its screens; nothing outside of it imports pygame."""
