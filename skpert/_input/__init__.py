"""Input, read and checked once: expression, designs, values and files."""
