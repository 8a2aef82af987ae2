"""The frames and the checked JSON that both sides speak."""
