import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops.training.learner import Learner
from kerneldna_ops.training.recipes import RECIPES, Recipe
from kerneldna_ops.training.schedule import warmup_then_cosine
from kerneldna_ops.training.trainer import ALONE
from support import tiny


@pytest.mark.parametrize(
    ("name", "epochs", "rate", "decay", "warmup"),
    [
        ("resnet18", 90, 0.1, 1e-4, 0),
        ("resnet50", 300, 0.1, 1e-4, 20),
        ("mobilenet_v2", 150, 0.05, 4e-5, 0),
        ("convnext_tiny", 150, 0.05, 4e-5, 0),
    ],
)
def test_published_recipes(name, epochs, rate, decay, warmup):
    assert RECIPES[name] == Recipe(epochs, 256, rate, decay, momentum=0.9, warmup_epochs=warmup)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("weight_decay", math.inf),
        ("epochs", 10**9),
        ("epochs", 2.5),
        ("batch_size", 8.5),
        ("weight_decay", -1.0),
        ("momentum", 1.0),
        ("warmup_epochs", 4),
        ("label_smoothing", 1.0),
        ("ema_decay", 1.0),
        ("crop_padding", -1),
    ],
)
def test_a_number_out_of_range_is_one_sentence(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, got {value}$"):
        replace(tiny.RECIPE, **{name: value})


def test_the_learning_rate_climbs_a_line_and_follows_a_cosine():
    assert [warmup_then_cosine(step, 4, 12) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert warmup_then_cosine(4, 4, 12) == 1
    assert warmup_then_cosine(8, 4, 12) == pytest.approx(0.5)
    assert warmup_then_cosine(11, 4, 12) == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)
    assert warmup_then_cosine(12, 4, 12) == 0
    assert [warmup_then_cosine(step, 4, 4) for step in (3, 4)] == [1, 0], "a line all the way"
    assert warmup_then_cosine(0, 0, 12) == 1
    assert warmup_then_cosine(2, 2.5, 12) == 1, "no more than the highest"


def learner(recipe, model=None, amp=None):
    return Learner(model or tiny.network(), recipe, 5, amp, False, ALONE, "ddp")


BATCH = tiny.data().train.load(torch.arange(8))


def test_the_learning_rate_of_every_step():
    recipe = replace(tiny.RECIPE, epochs=2, warmup_epochs=0.4)
    one = learner(recipe)
    seen = []
    for _ in range(10):
        seen.append((one.learning_rate, one.optimizer.param_groups[0]["lr"]))
        one.step(*BATCH)
    expected = [0.1 * warmup_then_cosine(step, 2, 10) for step in range(10)]
    assert seen == [(rate, rate) for rate in expected]


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_are_those_of_sgd_on_every_parameter(nesterov):
    recipe = replace(
        tiny.RECIPE, warmup_epochs=0, ema_decay=None, weight_decay=0.1, momentum=0.75, nesterov=nesterov, epochs=1000
    )
    model, twin = tiny.network().eval(), tiny.network()
    one = learner(recipe, model)
    velocities = [torch.zeros_like(parameter) for parameter in twin.parameters()]
    for number in range(3):
        torch.manual_seed(number)
        loss = one.step(*BATCH)
        torch.manual_seed(number)
        expected = F.cross_entropy(twin(BATCH[0]), BATCH[1], label_smoothing=0.1)
        torch.testing.assert_close(loss, expected.detach())
        gradients = torch.autograd.grad(expected, list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient, velocity in zip(twin.parameters(), gradients, velocities, strict=True):
                gradient = gradient + 0.1 * parameter
                velocity.mul_(0.75).add_(gradient)
                parameter -= 0.1 * (gradient + 0.75 * velocity if nesterov else velocity)
    for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-5, msg=name)


def test_averaged_weights_against_a_hand_computation():
    recipe = replace(tiny.RECIPE, ema_decay=0.75)
    one = learner(recipe)
    average = None
    for _ in range(4):
        one.step(*BATCH)
        now = {name: value.clone() for name, value in one.bare_model.state_dict().items() if value.is_floating_point()}
        average = now if average is None else {name: 0.75 * average[name] + 0.25 * now[name] for name in now}
    averaged = one.average.module.state_dict()
    for name, value in average.items():
        torch.testing.assert_close(averaged[name], value)
    assert not torch.equal(averaged["bn.running_mean"], one.bare_model.bn.running_mean)


def test_what_is_frozen_stays_frozen():
    model = tiny.network()
    model.bn.eval()
    one = learner(tiny.RECIPE, model)
    one.step(*BATCH)
    assert [model.training, model.parent.training, model.bn.training] == [True, True, False]
    assert torch.equal(model.bn.running_mean, torch.zeros(4))


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
def test_amp_computes_in_its_dtype_and_keeps_float32(amp):
    one = learner(tiny.RECIPE, amp=amp)
    seen = []
    one.bare_model.parent.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    before = one.bare_model.own.weight.detach().clone()
    losses = [one.step(*BATCH) for _ in range(3)]
    assert seen == [amp] * 3
    assert all(loss.isfinite() for loss in losses)
    assert one.bare_model.own.weight.dtype == torch.float32
    assert not torch.equal(one.bare_model.own.weight, before)
    assert bool(one.state()["scaler"]) == (amp == torch.float16)


def test_overflowing_gradients_leave_the_weights_alone():
    one = learner(tiny.RECIPE, amp=torch.float16)
    one.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before = {name: value.clone() for name, value in one.bare_model.named_parameters()}
    one.step(*BATCH)
    assert all(torch.equal(value, before[name]) for name, value in one.bare_model.named_parameters())
    assert one.scaler.get_scale() == 2.0**119


def test_channels_last_reaches_the_layers():
    one = Learner(tiny.network(), tiny.RECIPE, 5, None, True, ALONE, "ddp")
    seen = []
    one.bare_model.own.register_forward_hook(
        lambda module, inputs, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    one.step(*BATCH)
    assert seen == [True]
