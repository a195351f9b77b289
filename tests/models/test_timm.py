"""The networks in timm: built, cut, trained and saved by the calls of its train.py and validate.py."""

import argparse
import importlib
import json
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

timm = pytest.importorskip("timm")
from timm.data import resolve_data_config  # noqa: E402
from timm.layers import convert_sync_batchnorm  # noqa: E402
from timm.models import load_checkpoint, model_parameters, resume_checkpoint  # noqa: E402
from timm.optim import create_optimizer_v2  # noqa: E402
from timm.scheduler import create_scheduler_v2  # noqa: E402
from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler  # noqa: E402

import kerneldna_ops.models.timm  # noqa: E402
from kerneldna_ops.models import create_model, list_models, to_published  # noqa: E402
from kerneldna_ops.models.timm.__main__ import main  # noqa: E402
from kerneldna_ops.nn import ChildConv2d  # noqa: E402

pytestmark = pytest.mark.usefixtures("threads")

SMALL = "kerneldna_mobilenet_v2_050"
# What timm's train.py gives to create_model besides, for lack of options on its command line.
TRAIN = {
    "pretrained": False,
    "drop_rate": 0.0,
    "drop_path_rate": None,
    "drop_block_rate": None,
    "global_pool": None,
    "bn_momentum": None,
    "bn_eps": None,
    "scriptable": False,
    "checkpoint_path": "",
}


@pytest.mark.parametrize("name", list_models())
def test_is_the_network_of_the_same_name(name):
    model = timm.create_model(name, num_classes=5, **TRAIN).eval()
    ours = create_model(name, num_classes=5).eval()
    ours.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    scores = ours(images)
    torch.testing.assert_close(model(images), scores)
    features = model.forward_features(images)
    torch.testing.assert_close(model.forward_head(features), scores)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features) == (2, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(pooled), scores)
    assert timm.is_model(name)
    assert model.default_cfg["classifier"] == model.head
    assert isinstance(model.get_submodule(model.default_cfg["first_conv"]), nn.Conv2d)


@pytest.mark.parametrize("name", list_models())
def test_maps(name):
    with torch.device("meta"):
        whole = timm.create_model(name)
        levels = len(whole.feature_info)
        model = timm.create_model(name, features_only=True)
        maps = model(torch.empty(2, 3, 64, 96))
        assert [list(value.shape[1:]) for value in maps] == [
            [channels, 64 // reduction, 96 // reduction]
            for channels, reduction in zip(model.feature_info.channels(), model.feature_info.reduction(), strict=True)
        ]
        last, intermediates = whole.forward_intermediates(torch.empty(2, 3, 64, 96))
        assert [value.shape for value in intermediates] == [value.shape for value in maps]
        assert last.shape == (2, whole.num_features, 2, 3)
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32][-levels:]
    with torch.device("meta"):
        chosen = timm.create_model(name, features_only=True, out_indices=(1, 2), in_chans=1, dynamic=True)
        assert len(chosen.eval()(torch.empty(1, 1, 64, 64))) == 2


def test_intermediates_are_the_maps():
    model = timm.create_model("kerneldna_resnet18").eval()
    images = torch.randn(1, 3, 64, 64)
    last, (second, fifth) = model.forward_intermediates(images, indices=[1, -1])
    torch.testing.assert_close(last, model.forward_features(images))
    assert torch.equal(last, fifth)
    (only,) = model.forward_intermediates(images, indices=[1], stop_early=True, intermediates_only=True)
    assert torch.equal(only, second)


@pytest.mark.parametrize("name", ["kerneldna_resnet18", SMALL, "kerneldna_convnext_tiny"])
def test_classifier_is_replaced(name):
    model = timm.create_model(name, num_classes=0, drop_rate=0.25).eval()
    images = torch.randn(2, 3, 64, 64)
    pooled = model(images)
    assert pooled.shape == (2, model.num_features)
    assert model.num_classes == 0
    model.reset_classifier(3)
    assert model.num_classes == 3
    torch.testing.assert_close(model(images), model.get_classifier()(pooled))
    dropped = model.train().forward_head(model.forward_features(images), pre_logits=True)
    assert 0.1 < (dropped == 0).float().mean() < 0.4
    model.reset_classifier(0, "")
    assert model.eval()(images).shape == (2, model.num_features, 2, 2)


@pytest.mark.parametrize("rate", ["drop_rate", "dropout"])
def test_dropout_of_mobilenet_by_either_name(rate):
    model = timm.create_model(SMALL, **{rate: 0.75}).train()
    dropped = model.forward_head(torch.ones(8, model.num_features, 2, 2), pre_logits=True)
    assert model.drop_rate == 0.75
    assert 0.7 < (dropped == 0).float().mean() < 0.8
    assert dropped.unique().tolist() == [0, 4]


@pytest.mark.parametrize(
    ("name", "own", "timms"),
    [(SMALL, "dropout", "drop_rate"), ("kerneldna_convnext_tiny", "stochastic_depth_prob", "drop_path_rate")],
)
def test_one_rate_under_two_names(name, own, timms):
    with pytest.raises(ValueError, match=rf"^{name}: {own} is timm's {timms}, give one of them, got both$"):
        timm.create_model(name, **{own: 0.5, timms: 0.25})


@pytest.mark.parametrize("name", list_models())
def test_layer_wise_learning_rates(name):
    """The further from the head, the slower, block by block."""
    with torch.device("meta"):
        model = timm.create_model(name)
    groups = create_optimizer_v2(model, opt="sgd", lr=0.1, layer_decay=0.7).param_groups
    scales = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert len(scales) == len(list(model.parameters()))
    classifier, first = model.get_classifier(), model.get_submodule(model.default_cfg["first_conv"])
    assert scales[classifier.weight] == 1
    assert scales[first.weight] == min(scales.values())
    order = [scales[parameter] for parameter in model.parameters()]
    assert order == sorted(order)
    blocks = {"kerneldna_resnet18": 2 + 2 + 3 + 3, "kerneldna_resnet50": 3 + 4 + 7 + 3}
    if name in blocks:  # as timm's own: the stem, the blocks and the classifier
        assert len(set(order)) == 1 + blocks[name] + 1


def test_scripts_read_the_size_of_images():
    """train.py --input-size 1 96 96."""
    with torch.device("meta"):
        model = timm.create_model(SMALL, in_chans=1, num_classes=None)
        assert model(torch.empty(2, 1, 96, 96)).shape == (2, model.num_classes) == (2, 1000)
    assert resolve_data_config({"input_size": (1, 96, 96)}, model=model)["input_size"] == (1, 96, 96)
    assert resolve_data_config({}, model=timm.create_model(SMALL))["input_size"] == (3, 224, 224)


def test_convnext_drops_paths_only_if_asked():
    with torch.device("meta"):
        assert timm.create_model("kerneldna_convnext_tiny").features[7][2].drop == 0
        for rate in ("drop_path_rate", "stochastic_depth_prob"):
            assert timm.create_model("kerneldna_convnext_tiny", **{rate: 0.3}).features[7][2].drop == 0.3


def test_weights_from_a_file(tmp_path):
    ours = create_model(SMALL, num_classes=4)
    torch.save({"state_dict": to_published(ours)}, tmp_path / "published.pth")
    for arguments in ({"checkpoint_path": tmp_path / "published.pth"}, {"weights": tmp_path / "published.pth"}):
        model = timm.create_model(SMALL, num_classes=4, **arguments)
        assert all(map(torch.equal, model.state_dict().values(), ours.state_dict().values()))
    for arguments in ({"num_classes": 0}, {"features_only": True}):
        headless = timm.create_model(SMALL, weights=tmp_path / "published.pth", **arguments)
        assert all(map(torch.equal, headless.state_dict().values(), ours.state_dict().values()))  # of the trunk
    with pytest.raises(ValueError, match="build it with num_classes=4"):
        timm.create_model(SMALL, num_classes=5, weights=tmp_path / "published.pth")
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model(SMALL, pretrained=True)


def step(model, optimizer):
    """As train_one_epoch of train.py, with clipping."""
    scaler = NativeScaler(device="cpu")
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    parameters = model_parameters(model, exclude_head=False)
    scaler(loss, optimizer, clip_grad=1.0, clip_mode="norm", parameters=parameters, create_graph=False)
    optimizer.zero_grad()
    return loss.item()


def test_training_script(tmp_path):
    """The calls of train.py in its order: optimizer, average, schedule, step, checkpoint; then resumed, validated."""
    model = timm.create_model(SMALL, num_classes=4, **TRAIN).to(memory_format=torch.channels_last).train()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=1e-4, momentum=0.9, layer_decay=0.9)
    parents = {module.parent for module in model.modules() if isinstance(module, ChildConv2d)}
    in_optimizer = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(in_optimizer) == len(set(in_optimizer)) == len(list(model.parameters()))
    average = ModelEmaV3(model, decay=0.5, use_warmup=False)
    schedule, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=3, warmup_epochs=1, warmup_lr=1e-3)
    saver = CheckpointSaver(
        model,
        optimizer,
        args=argparse.Namespace(model=SMALL),
        model_ema=average,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    before = {parent: parent.weight.clone() for parent in parents}
    schedule.step(1)
    step(model, optimizer)
    average.update(model, step=2)
    assert epochs == 3
    saver.save_checkpoint(0, metric=1.0)
    averaged = {name: module for name, module in average.module.named_modules() if isinstance(module, ChildConv2d)}
    for name, child in averaged.items():
        parent = model.get_submodule(name).parent
        assert child.parent is not parent
        torch.testing.assert_close(child.parent.weight, (before[parent] + parent.weight) / 2)

    again = timm.create_model(SMALL, num_classes=4, **TRAIN)
    resumed = create_optimizer_v2(again, opt="sgd", lr=0.1, weight_decay=1e-4, momentum=0.9, layer_decay=0.9)
    assert resume_checkpoint(again, str(tmp_path / "last.pth.tar"), resumed) == 1
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images), model.eval()(images))
        load_checkpoint(again, str(tmp_path / "last.pth.tar"), use_ema=True)
        torch.testing.assert_close(again(images), average.module.eval()(images))
    assert len(resumed.state) == len(optimizer.state) == len(in_optimizer)


def test_synchronised_norms():
    """train.py --sync-bn: everywhere, in the squeeze-excites too; in eval mode the result is the same."""
    model = timm.create_model(SMALL, num_classes=4).eval()
    images = torch.randn(2, 3, 32, 32)
    scores = model(images)
    model = convert_sync_batchnorm(model)
    assert not any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(images), scores)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"drop_path_rate": 0.1}, "drop_path_rate must be 0, the network has no stochastic depth, got 0.1"),
        ({"drop_rate": 1.0}, "drop_rate must be at least 0 and below 1, got 1.0"),
        ({"global_pool": "max"}, "global_pool must be 'avg' or '', got 'max'"),
        ({"global_pool": ""}, "global_pool='' needs num_classes=0, got 1000"),
    ],
)
def test_bad_argument(arguments, sentence):
    with torch.device("meta"), pytest.raises(ValueError, match=f"^kerneldna_resnet18: {sentence}$"):
        timm.create_model("kerneldna_resnet18", **arguments)


def test_bad_calls():
    with torch.device("meta"):
        model = timm.create_model("kerneldna_resnet18")
    for call, sentence in (
        (lambda: model.set_grad_checkpointing(), "gradient checkpointing is not offered"),
        (lambda: model.forward_intermediates(torch.empty(0), norm=True), "norm must be False"),
        (lambda: model.forward_intermediates(torch.empty(0), output_fmt="NLC"), "output_fmt must be NCHW, got NLC"),
    ):
        with pytest.raises(ValueError, match=f"^kerneldna_resnet18: {sentence}"):
            call()
    model.set_grad_checkpointing(False)


def test_script_runs_with_the_networks(tmp_path, monkeypatch):
    """As `python SCRIPT ...` would run it: its own name, arguments and folder of modules."""
    (tmp_path / "beside.py").write_text("VALUE = 7\n")
    script = tmp_path / "train.py"
    script.write_text(
        "import json, sys, timm, beside\n"
        "known = timm.is_model('kerneldna_resnet18')\n"
        "json.dump([__name__, sys.argv, beside.VALUE, known], open(sys.argv[1], 'w'))\n"
    )
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    main([str(script), str(tmp_path / "said.json"), "--model", "kerneldna_resnet18"])
    said = json.loads((tmp_path / "said.json").read_text())
    assert said == ["__main__", [str(script), str(tmp_path / "said.json"), "--model", "kerneldna_resnet18"], 7, True]


def test_script_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="there is no script"):
        main([str(tmp_path / "train.py")])
    with pytest.raises(SystemExit, match=r"^usage: "):
        main([])


def test_timm_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(ModuleNotFoundError, match=r"^kerneldna_ops\.models\.timm: needs timm, which cannot"):
        importlib.reload(kerneldna_ops.models.timm)
