"""What is typed: commands without logic of their own."""
