"""The network: its layers and experts, and its weights as others hold them."""
