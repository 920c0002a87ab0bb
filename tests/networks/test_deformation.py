import math

import pytest
import torch

from prichexy.networks import deformation


def radiograph_like(height: int, width: int) -> torch.Tensor:
    """Edges as steep as a radiograph can have: uniform noise in [0, 1]."""
    return torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(("height", "width"), [(256, 256), (1501, 977)])
def test_corrected_operator_is_the_identity_for_a_zero_flow(height: int, width: int) -> None:
    displacement = deformation.displacement(torch.zeros(1, 2, 256, 256), 0.01, "corrected")
    image = radiograph_like(height, width)
    warped = deformation.warp(image, deformation.grid_at(displacement, height, width))
    # A coordinate near 1 is rounded by 6e-8; half the extent turns a few such roundings into pixels.
    assert float((warped - image).abs().max()) < 4 * 6e-8 * max(height, width)


def test_corrected_operator_keeps_a_constant_field_up_to_the_border() -> None:
    flow = torch.ones(1, 2, 256, 256)
    moved = deformation.displacement_pixels(deformation.sampling_grid(flow, 0.01, "corrected"))
    assert float(moved.largest_axis) == pytest.approx(1.275, abs=1e-4)
    assert float(moved.largest) == pytest.approx(1.275 * math.sqrt(2), abs=1e-4)
    assert float(moved.mean) == pytest.approx(1.275 * math.sqrt(2), abs=1e-4)


def test_corrected_operator_never_exceeds_its_bound() -> None:
    flow = torch.rand(4, 2, 256, 256, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).sign()
    moved = deformation.displacement_pixels(deformation.sampling_grid(flow, 0.01, "corrected"))
    assert moved.largest_axis.shape == (4,)
    assert float(moved.largest_axis.max()) <= 1.275 + 1e-4
    assert float(moved.largest_axis.max()) > 0.3


def test_displacement_moves_content_against_the_flow_along_x_then_y() -> None:
    image = torch.zeros(1, 1, 255, 255)
    image[0, 0, 100, 50] = 1
    flow = torch.zeros(1, 2, 255, 255)
    flow[:, 0] = 1  # sampling 1.27 * 2 / 2 px further left moves content to the right
    warped = deformation.warp(image, deformation.sampling_grid(flow, 2 / 254, "corrected"))
    assert float(warped[0, 0, 100, 51]) == pytest.approx(1, abs=1e-3)
    flow = flow.flip(1)
    warped = deformation.warp(image, deformation.sampling_grid(flow, 2 / 254, "corrected"))
    assert float(warped[0, 0, 101, 50]) == pytest.approx(1, abs=1e-3)


def test_smoothing_is_the_published_gaussian_away_from_the_border() -> None:
    field = torch.rand(2, 2, 64, 48, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        deformation.smooth(field)[..., 4:-4, 4:-4],
        deformation.smooth_as_published(field)[..., 4:-4, 4:-4],
        rtol=0,
        atol=1e-6,
    )
    impulse = torch.zeros(1, 2, 21, 21)
    impulse[..., 10, 10] = 1
    response = deformation.smooth(impulse)[0, 0]
    assert float(response.sum()) == pytest.approx(1, abs=1e-6)
    assert float(response[10, 11] / response[10, 10]) == pytest.approx(math.exp(-1 / 8), abs=1e-5)
    assert int((response > 0).sum()) == 81


def test_smoothing_lets_gradients_through() -> None:
    flow = torch.zeros(1, 2, 16, 16, requires_grad=True)
    deformation.displacement(flow, 0.5, "corrected").sum().backward()
    assert flow.grad is not None
    assert float(flow.grad.sum()) == pytest.approx(-0.5 * 2 * 16 * 16, rel=1e-5)


@pytest.mark.parametrize("operator", ["corrected", "reference"])
def test_displacement_means_the_same_at_every_resolution(operator: deformation.Operator) -> None:
    flow = torch.rand(1, 2, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    displacement = deformation.displacement(flow, 0.05, operator)
    coarse = deformation.grid_at(displacement, 64, 64)
    fine = deformation.grid_at(displacement, 127, 190)  # every second row and every third column is a coarse one
    torch.testing.assert_close(fine[:, ::2, ::3], coarse, rtol=0, atol=2e-6)


def test_grid_of_no_displacement_is_the_identity_grid() -> None:
    grid = deformation.grid_at(torch.zeros(1, 2, 32, 32), 50, 70)
    torch.testing.assert_close(grid, deformation.identity_grid(50, 70), rtol=0, atol=1e-6)
    assert grid[0, 0, -1].tolist() == [1, -1]


def test_unknown_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="'corrected' or 'reference'"):
        deformation.displacement(torch.zeros(1, 2, 16, 16), 0.01, "other")  # type: ignore[arg-type]


def test_folded_share_counts_the_folded_columns_only() -> None:
    smooth = deformation.identity_grid(11, 11).clone()
    smooth[..., 0] += 0.05 * torch.sin(3 * smooth[..., 1])
    assert deformation.folded_share(smooth).tolist() == [0]
    folded = deformation.identity_grid(11, 11).clone()
    folded[..., 5, 0] = folded[..., 7, 0]  # column 5 lies beyond column 6, so one of ten steps along x runs backwards
    shares = deformation.folded_share(torch.cat((smooth, folded)))
    assert shares.tolist() == pytest.approx([0, 0.1])
    mirrored = deformation.identity_grid(11, 11).flip(2)
    assert deformation.folded_share(mirrored).tolist() == [1]
