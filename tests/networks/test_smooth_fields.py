import pytest
import torch

from prichexy.networks.deformation import displacement_pixels, folded_share, grid_at, warp
from prichexy.networks.smooth_fields import control_values, integrated, low_pass, spline_field


def drawn(count: int, values: int, channels: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return 2 * torch.rand(count, channels, values, values, generator=generator) - 1


@pytest.mark.parametrize(("spacing", "values"), [(1.0, 4), (0.25, 7), (24 / 256, 14), (8 / 256, 35)])
def test_a_knot_every_so_often_and_three_values_beyond(spacing: float, values: int) -> None:
    assert control_values(spacing) == values


def test_a_spline_keeps_constants_and_straight_lines() -> None:
    ramp = torch.arange(-1.0, 6.0).expand(1, 1, 7, 7)  # the first knot lies at the second value
    field = spline_field(ramp, 64)
    assert torch.allclose(spline_field(torch.full((1, 2, 5, 5), 0.3), 64), torch.tensor(0.3))
    assert torch.allclose(field[0, 0, 10], torch.linspace(0, 4, 64), atol=1e-5)


def test_a_spline_stays_within_its_values_and_is_smooth() -> None:
    control = drawn(8, control_values(0.25))
    field = spline_field(control, 256)
    assert field.abs().max() <= control.abs().max()
    curvature = field[..., 2:] - 2 * field[..., 1:-1] + field[..., :-2]
    assert curvature.abs().max() < 4 * (4 / 255) ** 2  # a spline's second derivative is at most that of its values


def test_no_point_moves_further_than_its_velocity_and_none_folds() -> None:
    velocity = 16 / 127.5 * spline_field(drawn(8, 7), 256)
    grid = grid_at(integrated(velocity), 256, 256)
    assert displacement_pixels(grid).largest_axis.max() <= 16
    assert folded_share(grid).max() == 0


def test_the_negated_velocity_leads_back() -> None:
    image = spline_field(drawn(4, 19, 1), 256)
    velocity = 16 / 127.5 * spline_field(drawn(4, 7), 256)
    there, back = (grid_at(integrated(sign * velocity), 256, 256) for sign in (1, -1))
    inner = (..., slice(24, -24), slice(24, -24))  # what left the image does not come back
    moved = warp(image, there)
    assert (moved - image)[inner].abs().mean() > 0.05
    assert (warp(moved, back) - image)[inner].abs().max() < 0.01


def test_a_constant_velocity_moves_all_alike() -> None:
    velocity = torch.tensor([0.1, -0.05]).view(1, 2, 1, 1).expand(1, 2, 64, 64)
    assert torch.allclose(integrated(velocity), velocity, atol=1e-6)


def test_the_low_pass_keeps_constants_and_takes_off_what_is_fine() -> None:
    columns = torch.arange(256.0)
    coarse, fine = torch.cos(columns / 40), 0.2 * torch.cos(columns * 1.5)
    image = (coarse + fine).expand(1, 1, 256, 256)
    inner = slice(64, -64)
    assert torch.allclose(low_pass(torch.full((2, 1, 64, 64), 0.4), 8.0), torch.tensor(0.4), atol=1e-6)
    assert torch.allclose(low_pass(image, 8.0)[0, 0, 100, inner], coarse[inner], atol=0.03)
