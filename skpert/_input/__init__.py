"""What users give, read once: expression, designs, values and files."""
