import numpy as np
import pytest
import torch
from torch import Tensor

from prichexy.errors import UsageError
from prichexy.obfuscation.dp_pix import DPPix, pixels_per_cell, unit_laplace
from prichexy.obfuscation.settings import ObfuscationSettings

SEEDS = torch.tensor([3, 2**62 + 5])


def dp_pix(cell: int, epsilon: float, image_size: int = 256) -> DPPix:
    return DPPix(ObfuscationSettings(kind="dp-pix", cell=cell, epsilon=epsilon, image_size=image_size))


@pytest.mark.parametrize("cell", [2, 4, 8])
def test_cells_are_the_published_ones(cell: int, golden_images: Tensor, vectors: dict[str, np.ndarray]) -> None:
    pixelized = dp_pix(cell, epsilon=1e12)(golden_images[:2], SEEDS)
    np.testing.assert_allclose(pixelized.numpy(), vectors[f"dp_pix_b{cell}_noiseless"], rtol=1e-4, atol=1e-5)


def test_noise_is_laplace_with_the_paper_s_scale() -> None:
    # Scale 1 / (2^2 * 25) = 0.01 around 0.5: nothing is clipped.
    cells = dp_pix(2, epsilon=25)(torch.full((2, 1, 256, 256), 0.5), SEEDS)[:, :, ::2, ::2].double() - 0.5
    assert cells.shape == (2, 1, 128, 128)
    assert float(cells.mean()) == pytest.approx(0, abs=4 * 0.01 * 2**0.5 / 32768**0.5)
    assert float(cells.abs().mean()) == pytest.approx(0.01, rel=0.03)  # of a Laplace variable: its scale
    assert float(cells.std()) == pytest.approx(0.01 * 2**0.5, rel=0.03)
    assert float((cells.abs() > 0.01 * np.log(10)).double().mean()) == pytest.approx(0.1, rel=0.07)
    assert abs(float(torch.corrcoef(cells.reshape(2, -1))[0, 1])) < 4 / 128


def test_every_pixel_of_a_cell_is_the_same() -> None:
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    cells = dp_pix(4, epsilon=10, image_size=64)(image, SEEDS[:1]).unfold(2, 4, 4).unfold(3, 4, 4)
    assert torch.equal(cells.amax(dim=(-1, -2)), cells.amin(dim=(-1, -2)))


def test_an_image_s_noise_depends_on_its_own_seed_alone() -> None:
    images = torch.rand(5, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    seeds = torch.tensor([11, 12, 13, 14, 2**63 - 1])
    obfuscate = dp_pix(4, epsilon=10, image_size=64)
    batch = obfuscate(images, seeds)
    order = torch.tensor([4, 0, 2])
    assert torch.equal(obfuscate(images[order], seeds[order]), batch[order])
    assert not torch.equal(obfuscate(images[:1], seeds[1:2]), batch[:1])
    assert obfuscate(images[:0], seeds[:0]).shape == (0, 1, 64, 64)


def test_all_bits_of_a_seed_count() -> None:
    assert not torch.equal(unit_laplace(5, 4, 4), unit_laplace(5 + 2**40, 4, 4))


def test_the_noise_stream_never_changes() -> None:
    expected = [-0.11595270828841066, 0.48236055219177554, 1.1257067523075817]  # a published set can be had again
    assert unit_laplace(20, 1, 3)[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_result_is_clipped() -> None:
    pixelized = dp_pix(1, epsilon=0.1, image_size=64)(torch.rand(1, 1, 64, 64), SEEDS[:1])
    assert float(pixelized.min()) == 0
    assert float(pixelized.max()) == 1


def test_cells_cut_by_the_border_are_the_mean_of_their_pixels() -> None:
    image = torch.arange(5 * 7, dtype=torch.float32).view(1, 1, 5, 7) / 35
    pixelized = dp_pix(3, epsilon=1e12).pixelize(image, SEEDS[:1])
    assert pixelized.shape == image.shape
    torch.testing.assert_close(pixelized[0, 0, :3, :3], image[0, 0, :3, :3].mean().expand(3, 3))
    torch.testing.assert_close(pixelized[0, 0, 3:, 6:], image[0, 0, 3:, 6:].mean().expand(2, 1))
    assert pixels_per_cell(5, 7, 3).tolist() == [[9, 9, 3], [6, 6, 2]]


def test_a_cut_cell_has_as_much_more_noise_as_its_mean_is_sensitive() -> None:
    image = torch.full((2000, 1, 3, 2), 0.5)
    deviation = (dp_pix(2, epsilon=50).pixelize(image, torch.arange(2000)) - 0.5).abs().mean(dim=(0, 1, 3))
    assert float(deviation[0]) == pytest.approx(1 / (4 * 50), rel=0.1)
    assert float(deviation[2]) == pytest.approx(1 / (2 * 50), rel=0.1)


def test_native_resolution_is_refused_with_the_mend() -> None:
    obfuscate = dp_pix(4, epsilon=1)
    assert obfuscate.native is False
    with pytest.raises(UsageError, match="set the resolution to 256"):
        obfuscate.at_native(torch.zeros(1, 1, 256, 256), [torch.zeros(1, 512, 512)], SEEDS[:1])
