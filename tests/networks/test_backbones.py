from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prichexy.errors import UsageError
from prichexy.networks.checkpoints import save_safetensors
from prichexy.networks.classifier import Classifier, ClassifierBackbone
from prichexy.networks.initial_weights import start_from
from prichexy.networks.verifier import Verifier, VerifierBackbone


def images(count: int, side: int, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("backbone", ["resnet18", "tiny"])
@pytest.mark.parametrize("side", [64, 100])
def test_small_verifiers_compare_images_of_any_size(backbone: VerifierBackbone, side: int) -> None:
    verifier = Verifier(backbone).eval()
    first, second = images(2, side), images(2, side, seed=1)
    logits = verifier(first, second)
    assert logits.shape == (2, 1)
    torch.testing.assert_close(verifier(second, first), logits)  # neither image of a pair is special
    alike = verifier.fc_end.bias + (
        verifier.fc_end.weight.sum() if verifier.metric else 0
    )  # a cosine of 1, or no difference
    torch.testing.assert_close(verifier(first, first), alike.expand(2, 1))
    torch.testing.assert_close(verifier(first.expand(-1, 3, -1, -1), second), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["resnet18", "tiny"])
def test_embeddings_are_compared_as_images_are(backbone: VerifierBackbone) -> None:
    verifier = Verifier(backbone).eval()
    first, second = verifier(images(3, 64)), verifier(images(3, 64, seed=1))  # one at a time: embeddings
    assert first.shape == (3, 128)
    logits = verifier(images(3, 64), images(3, 64, seed=1))
    torch.testing.assert_close(verifier.compare(first, second), logits)
    torch.testing.assert_close(verifier.compare_all(first, second).diagonal()[:, None], logits)
    torch.testing.assert_close(verifier.compare_all(first, second)[0, 2], verifier.compare(first[:1], second[2:])[0, 0])


def test_the_small_verifiers_metric_ignores_exposure() -> None:
    verifier = Verifier("tiny").eval().requires_grad_(False)
    embedding = verifier.embed(images(2, 64))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    darker = verifier.embed(images(2, 64) * 0.9 + 0.05)
    assert float((embedding * darker).sum(dim=1).min()) > 0.999
    assert float((embedding[0] * embedding[1]).sum()) < 0.999


@pytest.mark.parametrize(
    ("backbone", "parameters"), [("resnet18", 11_176_512 + 513 * 14), ("tiny", 444_360 + 2048 * 14 + 14)]
)
def test_small_classifiers_give_a_logit_a_finding(backbone: ClassifierBackbone, parameters: int) -> None:
    classifier = Classifier(backbone).eval()
    assert classifier(images(2, 64)).shape == (2, 14)
    assert size(classifier) == parameters


def test_the_classifiers_input_size_decides_what_it_sees() -> None:
    torch.manual_seed(0)
    as_they_come = Classifier("tiny").eval()
    resized = Classifier("tiny", input_size=96).eval()
    resized.load_state_dict(as_they_come.state_dict())
    given = images(2, 64)
    enlarged = nn.functional.interpolate(given, size=(96, 96), mode="bilinear", antialias=True)
    torch.testing.assert_close(resized(given), as_they_come(enlarged))
    assert not torch.allclose(resized(given), as_they_come(given))
    assert Classifier().input_size == 224


def test_images_that_are_too_small_or_of_two_channels_are_refused() -> None:
    for shape in ((1, 1, 63, 64), (1, 2, 64, 64), (1, 64, 64)):
        with pytest.raises(ValueError, match="at least 64"):
            Verifier("tiny").embed(torch.zeros(shape))
        with pytest.raises(ValueError, match="at least 64"):
            Classifier("tiny")(torch.zeros(shape))


def test_unknown_backbones_are_refused() -> None:
    with pytest.raises(ValueError, match="resnet50, resnet18, tiny"):
        Verifier("vgg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="densenet121, resnet18, tiny"):
        Classifier("vgg")  # type: ignore[arg-type]


def test_the_small_verifier_comes_in_several_widths() -> None:
    sizes = [sum(p.numel() for p in Verifier("tiny", width).model.parameters()) for width in (0.5, 1.0, 2.0)]
    assert sizes[1] == sum(p.numel() for p in Verifier("tiny").model.parameters())
    assert 2 * sizes[0] < sizes[1] < sizes[2] / 2 < 2 * sizes[1]
    assert Verifier("tiny", 0.5).eval().embed(torch.rand(2, 1, 64, 64)).shape == (2, 128)
    with pytest.raises(ValueError, match="several widths"):
        Verifier("resnet18", 2.0)


@pytest.mark.parametrize("make", [lambda: Verifier("tiny"), lambda: Classifier("tiny")])
def test_own_weights_fill_the_whole_network(make: type[Verifier | Classifier], tmp_path: Path) -> None:
    source, network = make(), make()
    save_safetensors(source.state_dict(), tmp_path / "weights")
    assert start_from(network, tmp_path / "weights") == "own"
    torch.testing.assert_close(dict(network.state_dict()), dict(source.state_dict()), rtol=0, atol=0)


def imagenet_file(network: Verifier | Classifier, prefix: str, head: str, inputs: int, folder: Path) -> Path:
    """Weights as torchvision's files hold them: the backbone's names alone, and a layer of 1,000 classes."""
    own_heads = ("model.fc.", "fc_end.", "classifier.")
    state = {
        key.removeprefix(prefix): torch.full_like(value, 2)
        for key, value in network.state_dict().items()
        if not key.startswith(own_heads)
    }
    torch.save({**state, f"{head}.weight": torch.zeros(1000, inputs), f"{head}.bias": torch.zeros(1000)}, folder / "w")
    return folder / "w"


@pytest.mark.parametrize(
    ("make", "prefix", "head", "inputs"),
    [
        (lambda: Verifier("resnet18"), "model.", "fc", 512),
        (lambda: Classifier("resnet18"), "model.", "fc", 512),
        (Classifier, "", "classifier", 1024),
    ],
)
def test_imagenet_weights_fill_all_but_the_last_layers(
    make: type[Verifier | Classifier], prefix: str, head: str, inputs: int, tmp_path: Path
) -> None:
    network = make()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert start_from(network, imagenet_file(network, prefix, head, inputs, tmp_path)) == "imagenet"
    for key, value in network.state_dict().items():
        kept = key.startswith(("model.fc.", "fc_end.", "classifier."))
        torch.testing.assert_close(value, before[key] if kept else torch.full_like(value, 2), rtol=0, atol=0)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_safetensors(Verifier("tiny").state_dict(), tmp_path / "verifier")
    with pytest.raises(UsageError, match="don't fit"):
        start_from(Classifier("tiny"), tmp_path / "verifier")
    imagenet = imagenet_file(Verifier("resnet18"), "model.", "fc", 512, tmp_path)
    with pytest.raises(UsageError, match="'tiny' has none"):
        start_from(Verifier("tiny"), imagenet)
