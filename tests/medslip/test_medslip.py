"""MeDSLIP's model: structure, switches of its audit, relation scores and heat maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from doubles import batch, ingredients, trunk
from pydantic import ValidationError

from medslip import MeDSLIP, MeDSLIPSettings
from medslip.released import released_keys
from replication.errors import CheckpointError
from replication.knowledge.vocabulary import PATHOLOGIES
from replication.method import Batch, Finding
from replication.networks.query_decoder import DecoderLayer

SMALL = {"d_model": 16, "decoder_layers": 2, "heads": 2, "feedforward": 32, "dropout": 0.0}
EFFUSION = Finding("effusion", "pleural effusion", "effusion")
LEFT = Finding("effusion", "pleural effusion", "effusion", "left_pleural")
RIGHT = Finding("effusion", "pleural effusion", "effusion", "right_pleural")
FIBROSIS = Finding("fibrosis", "fibrosis", "tail_abnorm_obs")
COVID = Finding("covid", "covid pneumonia")


def make(seed: int = 0, **values: object) -> MeDSLIP:
    torch.manual_seed(seed)
    settings = MeDSLIPSettings.model_validate({**SMALL, **values})
    return MeDSLIP.build(settings, ingredients()).eval()


def with_triplets(source: Batch, triplets: torch.Tensor) -> Batch:
    return dataclasses.replace(source, triplets=triplets)


def parts(model: MeDSLIP, data: Batch) -> dict[str, float]:
    return {name: value.item() for name, value in model.loss(data).parts.items()}


def test_weights_of_the_losses() -> None:
    data = batch()
    model = make(loss={"alpha": 0.5, "beta": 0.25})
    outcome = model.loss(data)
    p = outcome.parts
    expected = (
        p["exist_pathology"]
        + p["exist_anatomy"]
        + 0.5 * (p["protocl_pathology"] + p["protocl_anatomy"])
        + 0.25 * p["icl"]
    )
    torch.testing.assert_close(outcome.total.detach(), expected)
    assert set(parts(make(loss={"alpha": 0.0}), data)) == {"exist_pathology", "exist_anatomy", "icl"}
    assert not any("contrast" in name for name, _ in make(loss={"alpha": 0.0}).named_parameters())
    assert "icl" not in parts(make(loss={"beta": 0.0}, relation="protocl"), data)


def test_a_relation_that_is_not_trained_cannot_score() -> None:
    with pytest.raises(ValidationError, match="not trained"):
        make(loss={"beta": 0.0})
    with pytest.raises(ValidationError, match="not trained"):
        make(loss={"alpha": 0.0}, relation="protocl")


def test_gates_differ_as_named() -> None:
    """P2. The gate's logits are large here, so a sigmoid must show."""
    data = batch(2)
    answers = {}
    for gate in ("linear", "sigmoid", "absent"):
        model = make(gate=gate)
        if model.gate is not None:
            torch.nn.init.constant_(model.gate.bias, 3.0)
            torch.nn.init.zeros_(model.gate.weight)
        patches, _ = model._patches(model.trunk(data.images), None)
        features = model.trunk(data.images).flatten(2).transpose(1, 2)
        share = {"linear": 3.0, "sigmoid": torch.tensor(3.0).sigmoid().item(), "absent": None}[gate]
        pathology = features if share is None else share * features
        anatomy = features if share is None else (1 - share) * features
        torch.testing.assert_close(patches["pathology"], model.pathology_patches(pathology))
        torch.testing.assert_close(patches["anatomy"], model.anatomy_patches(anatomy))
        answers[gate] = patches["anatomy"]
    assert not torch.allclose(answers["linear"], answers["sigmoid"])


def test_streams_are_what_the_decoders_see_laid_out_as_the_image() -> None:
    model = make().eval()
    images = batch(2, side=96).images[:, :, :64]
    maps = model.trunk(images)
    patches, (height, width) = model._patches(maps, None)
    streams = model.streams(images)
    assert height != width
    assert torch.equal(streams["trunk"], maps)
    for name in ("pathology", "anatomy"):
        assert torch.equal(streams[name][:, :, 1, 2], patches[name][:, width + 2])


def test_shared_streams_have_one_memory() -> None:
    model = make(gate="absent", streams="shared")
    patches, _ = model._patches(model.trunk(batch(2).images), None)
    assert torch.equal(patches["pathology"], patches["anatomy"])
    assert not any(name.startswith("anatomy_patches") for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("switch", "module"),
    [("share_decoder_norm", "anatomy_norm"), ("share_query_projection", "anatomy_queries")],
)
def test_sharing_removes_a_module_and_couples_the_streams(switch: str, module: str) -> None:
    """P1, P17: with sharing, the anatomy stream alone moves what the pathology stream uses."""
    partner = module.replace("anatomy", "pathology")
    for shared in (True, False):
        model = make(**{switch: shared})
        names = {name for name, _ in model.named_parameters() if name.startswith(module)}
        assert bool(names) != shared
        answer = model._answer(batch(2).images)
        answer.anatomies.features.square().sum().backward()
        gradient = model.get_submodule(partner).weight.grad
        assert (gradient is not None) == shared


def test_icl_scale() -> None:
    """P3: for the same features the released logits are sqrt(d) times the scaled ones."""
    one, scaled = make(loss={"icl_scale": "one"}), make(loss={"icl_scale": "1/sqrt(d)"})
    assert one.icl_scale == 1
    assert scaled.icl_scale == pytest.approx(16**-0.5)
    assert parts(one, batch())["icl"] > 1.5 * parts(scaled, batch())["icl"]


def test_the_matrix_is_mutated_only_on_request() -> None:
    """P4: a second forward on the mutated batch sees every cell as mentioned."""
    data = batch()
    before = data.triplets.clone()
    first = parts(make(), data)
    assert torch.equal(data.triplets, before)
    assert parts(make(), data) == first
    mutating = make(loss={"mutate_matrix": True})
    assert parts(mutating, data) == first
    assert torch.equal(data.triplets, before.clamp(min=0))
    assert parts(mutating, data)["icl"] != pytest.approx(first["icl"], rel=1e-3)


def test_negative_rules_reach_the_loss() -> None:
    """P6."""
    data = batch()
    faithful = parts(make(loss={"negatives": "not_one"}), data)
    corrected = parts(make(loss={"negatives": "absent_only_then_unmentioned"}), data)
    assert faithful["icl"] == corrected["icl"]
    assert faithful["protocl_pathology"] != corrected["protocl_pathology"]
    assert faithful["protocl_anatomy"] != corrected["protocl_anatomy"]


def test_anatomy_labels_with_and_without_normal_observations() -> None:
    """P19: an anatomy that is only "clear" is present for the released code, unlabelled without it."""
    cells = torch.full((2, 51, 75), -1, dtype=torch.int8)
    cells[:, 18, PATHOLOGIES.index("clear")] = 1
    cells[:, 4, PATHOLOGIES.index("excluded_obs")] = 1
    data = with_triplets(batch(2), cells)
    assert parts(make(loss={"anatomy_positive": "any"}), data)["exist_anatomy"] > 0
    assert parts(make(loss={"anatomy_positive": "abnormal_only"}), data)["exist_anatomy"] == 0
    cells[:, 18, PATHOLOGIES.index("tail_abnorm_obs")] = 1
    assert parts(make(loss={"anatomy_positive": "abnormal_only"}), data)["exist_anatomy"] > 0


def test_an_empty_batch() -> None:
    data = with_triplets(batch(2), torch.full((2, 51, 75), -1, dtype=torch.int8))
    model = make()
    outcome = model.loss(data)
    outcome.total.backward()
    assert outcome.total.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert make(loss={"empty_batch": "nan"}).loss(data).total.isnan()


def test_initialisations() -> None:
    released, xavier = make(initialisation="released"), make(initialisation="xavier")
    weight = released.pathology_patches.hidden.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    layers = [module for module in released.modules() if isinstance(module, DecoderLayer)]
    assert len(layers) == 4
    assert all(torch.equal(layer.linear1.bias, layers[0].linear1.bias) for layer in layers)
    assert layers[0].linear1.bias.abs().max() > 0
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)
    assert layers[0].self_attn.in_proj_weight.std().item() == pytest.approx(0.02, rel=0.1)
    bound = (6 / (weight.shape[0] + weight.shape[1])) ** 0.5
    assert xavier.pathology_patches.hidden.weight.abs().max().item() == pytest.approx(bound, rel=0.05)
    assert xavier.pathology_patches.hidden.bias.abs().max() == 0
    # The trunk keeps its own initialisation.
    torch.manual_seed(0)
    expected = trunk()
    assert torch.equal(released.trunk.conv1.weight, xavier.trunk.conv1.weight)
    assert torch.equal(expected.conv1.weight, xavier.trunk.conv1.weight)


def test_a_finding_without_a_class_is_asked_by_its_text() -> None:
    """Z2, and findings that pre-training never named."""
    images = batch(2).images
    own, tail = make(fibrosis="own_prompt"), make(fibrosis="tail")
    alone = own.score(images, [EFFUSION])
    together = own.score(images, [COVID, EFFUSION, FIBROSIS])
    torch.testing.assert_close(together[:, 1:2], alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together[:, :1], own.score(images, [COVID]), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(together[:, 2], tail.score(images, [FIBROSIS])[:, 0])
    by_class = torch.softmax(tail._answer(images).pathology.logits, -1)[
        :, PATHOLOGIES.index("tail_abnorm_obs"), 1
    ]
    torch.testing.assert_close(tail.score(images, [FIBROSIS])[:, 0], by_class, rtol=1e-4, atol=1e-6)


def test_relation_scores() -> None:
    images = batch(2).images
    model = make()
    answer = model._answer(images)
    a, i = 4, PATHOLOGIES.index("effusion")
    logit = model.icl_scale * (answer.anatomies.features[:, a] * answer.pathology.features[:, i]).sum(-1)
    present = answer.pathology.logits[:, i].softmax(-1)[:, 1]
    torch.testing.assert_close(
        model.score(images, [LEFT])[:, 0], (logit.sigmoid() * present).log(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        make(relation_with_existence=False).score(images, [LEFT])[:, 0],
        logit.sigmoid().log(),
        rtol=1e-4,
        atol=1e-5,
    )
    by_text = make(relation="protocl", relation_with_existence=False)
    assert by_text.score(images, [LEFT]).exp().max() <= 1
    none = make(relation="none")
    assert torch.equal(none.score(images, [LEFT]), none.score(images, [EFFUSION]))
    mixed = model.score(images, [EFFUSION, LEFT, RIGHT])
    torch.testing.assert_close(mixed[:, :1], model.score(images, [EFFUSION]))
    assert not torch.allclose(mixed[:, 1], mixed[:, 2])


def test_heatmaps_follow_the_grounding_switches() -> None:
    """G1, G2, G3, G5."""
    images = batch(3).images
    base = make(seed=1).heatmap(images, [EFFUSION, COVID])
    assert base.shape == (3, 2, 4, 4)
    torch.testing.assert_close(base.sum(dim=(2, 3)), torch.ones(3, 2))

    def maps(findings: list[Finding], **grounding: object) -> torch.Tensor:
        return make(seed=1, grounding=grounding).heatmap(images, findings)

    drawn = maps([EFFUSION], query_projection="random", query_seed=1)
    assert not torch.allclose(drawn, maps([EFFUSION], query_projection="random", query_seed=2))
    assert torch.equal(drawn, maps([EFFUSION], query_projection="random", query_seed=1))
    assert not torch.allclose(maps([EFFUSION], mask_mode="mask_only"), base[:, :1])
    left, right = maps([LEFT]), maps([RIGHT])
    assert not torch.allclose(left, right)
    assert torch.equal(maps([LEFT], anatomy_attention="never"), base[:, :1])
    averaged = maps([EFFUSION], anatomy_attention="all")
    assert averaged.sum(dim=(2, 3)).max() < 1
    assert not torch.allclose(averaged, left)
    by_image = maps([EFFUSION], normalise="image_max")
    assert torch.equal(by_image.amax(dim=(2, 3)), torch.ones(3, 1))
    by_batch = maps([EFFUSION], normalise="batch_max")
    assert by_batch.max() == 1
    assert (by_batch.amax(dim=(2, 3)) == 1).sum() == 1


def test_released_names_cover_the_model(tmp_path: Path) -> None:
    released = make(share_decoder_norm=True, share_query_projection=True)
    ours = [key for key in released.state_dict() if "_book." not in key]
    keys = released_keys(ours)
    assert set(keys.values()) == set(ours)
    assert len(keys) == len(ours) + 2  # the shared normalisation has two names
    state = {theirs: torch.randn_like(released.state_dict()[mine].float()) for theirs, mine in keys.items()}
    for part in ("weight", "bias"):
        state[f"decoder_anatomy.norm.{part}"] = state[f"decoder_pathology.norm.{part}"]
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "a.pth")
    report = released.load_released(tmp_path / "a.pth")
    assert len(report.mapped) == len(keys)
    assert torch.equal(released.gate.weight, state["mask_generator.weight"])
    separate = make(share_decoder_norm=False, share_query_projection=True)
    separate.load_released(tmp_path / "a.pth")
    assert torch.equal(separate.anatomy_norm.weight, separate.pathology_norm.weight)
    with pytest.raises(CheckpointError, match="leaves weights"):
        make(share_decoder_norm=True, share_query_projection=False).load_released(tmp_path / "a.pth")
    torch.save({key: value for key, value in state.items() if "cl_fc" not in key}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"missing: cl_fc_anatomy\.bias"):
        released.load_released(tmp_path / "b.pth")
