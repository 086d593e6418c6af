"""Assignment by int8 products with certified intervals."""
