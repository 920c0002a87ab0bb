import pytest
import torch
from torch import Tensor

from prichexy.networks.coarse_appearance import BANDS, FURTHEST, CoarseAppearance
from prichexy.networks.deformation import displacement_pixels, folded_share, grid_at
from prichexy.networks.smooth_fields import low_pass, spline_field
from prichexy.obfuscation import build, parse_settings
from prichexy.obfuscation.model_files import fingerprint_of, new_network
from prichexy.obfuscation.multi_scale_field import MultiScaleField

STILL = {"fields_px": (0, 0, 0), "exposure": 0.0, "contrast": 0.0}
SEEDS = torch.tensor([11, 12, 2**62 + 5])


def images(side: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.2 + 0.6 * spline_field(torch.rand(3, 1, 19, 19, generator=generator), side)


def obfuscator(side: int = 64, **given: object) -> MultiScaleField:
    """One whose expected image is a ramp of a height that the classifier decides on."""
    settings = parse_settings({"kind": "multi-scale-field", "backbone": "tiny", "image_size": side, "kept": 1, **given})
    assert settings.kept is not None
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = new_network(settings)
    assert isinstance(network, CoarseAppearance)
    network.requires_grad_(False)
    network.mean_image.fill_(0.5)
    if settings.kept:
        network.axes[0, 0] = 1
        network.basis.copy_(torch.linspace(-0.1, 0.1, side).expand(1, side, side))
    built = build(settings, network.state_dict())
    assert isinstance(built, MultiScaleField)
    return built


def test_nothing_changes_where_everything_is_zero() -> None:
    still = obfuscator(**STILL, coarse_px=0, kept=0)
    assert torch.allclose(still(images(), SEEDS), images(), atol=1e-6)


def test_detail_of_one_changes_the_coarse_appearance_alone() -> None:
    model, sigma = obfuscator(**STILL, coarse_px=16, kept=0), 4.0
    before, after = images(), model(images(), SEEDS)
    assert torch.allclose(after, before - low_pass(before, sigma) + 0.5, atol=1e-5)
    assert (low_pass(after, sigma) - 0.5).abs().mean() < 0.4 * (low_pass(before, sigma) - 0.5).abs().mean()


def test_no_detail_leaves_what_the_classifier_says() -> None:
    model = obfuscator(**STILL, detail=0.0)
    after = model(images(), SEEDS)
    codes = (after - 0.5)[:, 0, 30, 60] / torch.linspace(-0.1, 0.1, 64)[60]
    assert torch.allclose(after, 0.5 + codes[:, None, None, None] * torch.linspace(-0.1, 0.1, 64), atol=1e-5)
    assert codes.abs().max() <= FURTHEST
    assert len(set(codes.tolist())) == 3


@pytest.mark.parametrize("detail", [0.0, 0.3, 1.0])
def test_equal_shares_of_all_bands_are_the_one_share_of_a_fitted_model(detail: float) -> None:
    model, before = obfuscator(**STILL, coarse_px=16, detail=detail), images()
    state = read_state(model)
    assert state["shares"].tolist() == pytest.approx([detail] * BANDS)
    network, sigma = model._appearance, 4.0
    expected = network.expected(torch.cat([network.codes(network.classifier(image)) for image in before[:, None]]))
    fine = expected - low_pass(expected, sigma)
    formula = detail * before + (expected - detail * (low_pass(before, sigma) + fine))
    # Without fields the image is still resampled at its own pixels, which rounds.
    assert torch.allclose(model(before, SEEDS), formula.clamp(0, 1), atol=1e-6)
    old = {name: value for name, value in state.items() if name != "shares"}  # as models were stored before
    assert torch.equal(build(model.settings, old)(before, SEEDS), model(before, SEEDS))
    assert fingerprint_of(model.settings, old) != fingerprint_of(model.settings, state)


def read_state(model: MultiScaleField) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model._appearance.state_dict().items()}


def test_each_band_keeps_a_share_of_its_own() -> None:
    plain = obfuscator(**STILL, coarse_px=16, kept=0)
    state = read_state(plain) | {"shares": torch.tensor([0.9, 0.1, 0.5])}
    model, before = build(plain.settings, state), images()
    low = [low_pass(before, sigma) for sigma in (4.0, 2.0, 1.0)]
    bands = [low[1] - low[0], low[2] - low[1], before - low[2]]
    summed = 0.5 + 0.9 * bands[0] + 0.1 * bands[1] + 0.5 * bands[2]
    assert torch.allclose(model(before, SEEDS), summed, atol=1e-5)


def test_a_larger_image_keeps_the_finest_band_s_share_of_what_is_finer_still() -> None:
    plain = obfuscator(**STILL, coarse_px=16, kept=0)
    model = build(plain.settings, read_state(plain) | {"shares": torch.tensor([0.9, 0.1, 0.5])})
    small = images()[:1]
    wide = torch.nn.functional.interpolate(small, size=(256, 256), mode="bilinear", align_corners=True)[0]
    pattern = 0.02 * torch.sin(torch.arange(256) * (2 * torch.pi / 4))
    with_it, without = (next(iter(model.at_native(small, [one], SEEDS[:1]))) for one in (wide + pattern, wide))
    assert torch.allclose(with_it - without, 0.5 * pattern.expand(1, 256, 256), atol=1e-5)


def test_noise_on_the_code_comes_from_the_seed() -> None:
    plain, noisy = (obfuscator(**STILL, detail=0.0, code_noise=noise) for noise in (0.0, 1.0))
    same = images()[:1].expand(3, 1, 64, 64)
    assert torch.equal(plain(same, SEEDS)[0], plain(same, SEEDS)[1])
    assert not torch.allclose(noisy(same, SEEDS)[0], noisy(same, SEEDS)[1])
    assert torch.equal(noisy(same, SEEDS), noisy(same, SEEDS))


def test_two_images_of_one_patient_are_not_deformed_alike() -> None:
    model = obfuscator(kept=0, coarse_px=0)
    same = images()[:1].expand(3, 1, 64, 64)
    after = model(same, SEEDS)
    assert (after[0] - after[1]).abs().mean() > 0.01
    assert torch.equal(model(same, SEEDS), after)


def test_an_image_s_result_does_not_depend_on_its_neighbours() -> None:
    model = obfuscator()
    together = model(images(), SEEDS)
    alone = torch.cat([model(images()[n : n + 1], SEEDS[n : n + 1]) for n in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("fields_px", [(16, 0, 0), (0, 6, 0), (0, 0, 2), (16, 6, 2)])
@pytest.mark.parametrize("side", [64, 256])
def test_the_largest_allowed_fields_keep_their_bound_and_fold_nowhere(
    fields_px: tuple[float, float, float], side: int
) -> None:
    model, seeds = obfuscator(side, fields_px=fields_px), torch.arange(8)
    grid = grid_at(model.displacement(torch.zeros(8, 1, side, side), seeds), side, side)
    largest = displacement_pixels(grid).largest_axis.max() * 255 / (side - 1)
    assert 0.4 * sum(fields_px) < largest <= sum(fields_px)
    assert folded_share(grid).max() == 0


def test_exposure_and_contrast_keep_their_bounds() -> None:
    fields = obfuscator(exposure=0.1, contrast=0.2).fields(torch.arange(30))
    assert 0.05 < fields.exposure_N1SS.abs().max() <= 0.1
    assert 0.1 < fields.contrast_N1SS.abs().max() <= 0.2
    assert abs(float(fields.exposure_N1SS.mean())) < 0.01


def test_the_key_s_holder_undoes_the_fields_and_nobody_else() -> None:
    model = obfuscator(256, coarse_px=0, kept=0, exposure=0.05, contrast=0.05, fields_px=(16, 3, 1))
    before = images(256)
    published = model(before, SEEDS)
    inner = (..., slice(24, -24), slice(24, -24))

    def error(recovered: Tensor) -> float:
        return float((recovered - before)[inner].abs().mean())

    assert error(model.undone(published, SEEDS)) < 0.1 * error(published)
    assert error(model.undone(published, SEEDS + 1)) > 0.9 * error(published)


def test_native_images_are_changed_as_their_thumbnails_are() -> None:
    model = obfuscator(64)
    wide = torch.nn.functional.interpolate(images(), size=(160, 128), mode="bilinear", align_corners=True)
    published = torch.stack(list(model.at_native(images(), list(wide), SEEDS)))
    small = torch.nn.functional.interpolate(published, size=(64, 64), mode="bilinear", align_corners=True)
    assert published.shape == (3, 1, 160, 128)
    assert (small - model(images(), SEEDS)).abs().mean() < 0.002
    assert 0 <= published.min() <= published.max() <= 1


def test_shapes_are_checked() -> None:
    model = obfuscator()
    with pytest.raises(ValueError, match="expected images"):
        model(torch.zeros(1, 1, 32, 32), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected one seed"):
        model.undone(torch.zeros(2, 1, 64, 64), torch.zeros(1, dtype=torch.int64))
    assert model(torch.zeros(0, 1, 64, 64), torch.zeros(0, dtype=torch.int64)).shape == (0, 1, 64, 64)
