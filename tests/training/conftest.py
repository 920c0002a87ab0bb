"""The golden vectors and the images that they were made of, shared with the networks' tests."""

from tests.networks.conftest import golden_images, vectors

__all__ = ["golden_images", "vectors"]
