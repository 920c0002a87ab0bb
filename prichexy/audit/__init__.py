"""The audit: what attackers can still do with a model's images, and what research can still learn from them."""
