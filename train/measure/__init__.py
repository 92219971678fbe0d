"""Every figure of a finished world, and how figures are shown."""
