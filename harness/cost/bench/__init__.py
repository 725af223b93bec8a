"""What selection saves: memory, operations, seconds and storage of the paper's variants, side by side."""
