"""Genie: playable worlds learnt from videos without labels."""
