"""A U-Net that starts from one of other latents."""

import numpy as np
import pytest

from kgen.networks import UNet


@pytest.fixture(scope="module")
def example(load_example):
    return load_example("text_to_image")


def unet(latent_channels, width):
    return UNet((4, 4, latent_channels), channels=(width,), blocks=1, attention=False)


def test_all_weights_but_those_of_the_latents_are_copied(example):
    network, other = unet(3, 8), unet(2, 8)
    for variable in other.weights:
        variable.assign(np.full(variable.shape, 7.0))
    example.copy_weights(network, other)
    differ = [v.path for v in network.weights if (v.numpy() != 7).any()]
    assert len(differ) == 3
    assert {v.shape for v in network.weights if v.path in differ} == {
        (3, 3, 3, 8),
        (3, 3, 8, 3),
        (3,),
    }


def test_other_widths_are_refused(example):
    with pytest.raises(SystemExit, match="--channels"):
        example.copy_weights(unet(3, 8), unet(2, 16))


@pytest.mark.parametrize(
    "options", [["--quick", "--like", "x"], ["--train", "--start", "x", "--like", "y"]]
)
def test_an_option_that_would_be_ignored_is_refused(example, options, capsys):
    with pytest.raises(SystemExit):
        example.main(options)
    assert "--like is for --train without --start" in capsys.readouterr().err
