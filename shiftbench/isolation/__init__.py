"""The host side of isolation: starting guests, with what they may see, use and hand back."""
