"""Sample policies: scores of training sequences to the sequences that are kept. One file each."""
