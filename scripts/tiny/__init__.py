"""How the embedded workload was made: text, tokenizer, models, scores, and the choice of its learning rates."""
