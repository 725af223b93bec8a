"""The harness: grids of strategies, run as trials through one shared distillation core."""
