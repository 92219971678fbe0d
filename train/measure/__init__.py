"""All figures of finished worlds, and the tables, pages and pictures that show them."""
