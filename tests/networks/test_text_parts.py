"""Text books are computed once and kept with the weights; text towers train from some layer upwards."""

from __future__ import annotations

import pytest
import torch
from doubles import text_encoder
from torch import nn

from replication.errors import ConfigError
from replication.networks.text_book import BookSettings, TextBook, anatomy_texts
from replication.networks.text_tower import TextTower, mean_direction

TEXTS = ("The lungs are clear.", "There is a “left” effusion — small.", "The heart is enlarged.")


def make(**values: object) -> TextBook:
    return TextBook(TEXTS, text_encoder(), BookSettings.model_validate(values))


def test_rows_are_the_encoders_features() -> None:
    encoder = text_encoder()
    for pooling in ("cls", "mean"):
        book = make(pooling=pooling)
        expected = encoder.embed(TEXTS, pooling=pooling, max_length=128)
        torch.testing.assert_close(book.features, expected)
        torch.testing.assert_close(book.later(TEXTS[2]), expected[2], rtol=1e-4, atol=1e-5)


def test_the_encoder_is_not_part_of_the_weights() -> None:
    book = make()
    assert set(book.state_dict()) == {"features", "centre"}
    assert not list(book.parameters())


def test_centring_moves_later_texts_alike() -> None:
    plain, centred = make(pooling="mean"), make(pooling="mean", centre=True)
    torch.testing.assert_close(centred.features.mean(0), torch.zeros(32), rtol=0, atol=1e-5)
    torch.testing.assert_close(centred.features + centred.centre, plain.features)
    torch.testing.assert_close(centred.later(TEXTS[0]), centred.features[0], rtol=1e-4, atol=1e-5)


def test_separator_and_case_switches_change_the_rows() -> None:
    base = make().features
    assert not torch.allclose(make(add_sep=False).features, base)
    # The stand-in's tokeniser lower-cases by itself, so the switch must reach it as an argument.
    seen: list[bool] = []
    encoder = text_encoder()
    original = encoder.tokenize
    encoder.tokenize = lambda *a, **k: seen.append(k["lowercase"]) or original(*a, **k)  # type: ignore[method-assign]
    TextBook(TEXTS, encoder, BookSettings(lowercase=True))
    assert seen == [True]


def test_shorter_texts_in_evaluation() -> None:
    assert make().evaluation is None
    short = make(max_length_eval=5)
    expected = text_encoder().embed(TEXTS, pooling="cls", max_length=5)
    torch.testing.assert_close(short.for_scores, expected)
    torch.testing.assert_close(short.features, make().features)
    assert set(short.state_dict()) == {"features", "centre", "evaluation"}


def test_downstream_copies_lack_quotes_and_dashes() -> None:
    book = make(variant="per_script")
    plain = text_encoder().embed(["There is a left effusion  small."], pooling="cls", max_length=128)
    torch.testing.assert_close(book.for_scores[1:2], plain, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(book.for_scores[1], book.features[1])
    torch.testing.assert_close(book.for_scores[[0, 2]], book.features[[0, 2]], rtol=1e-4, atol=1e-5)


def test_anatomy_prompts() -> None:
    assert anatomy_texts(BookSettings(), "medslip")[18] == "It is located at left_lower_lung. "
    assert anatomy_texts(BookSettings(), "medklip")[18] == "It is located at left_lower_lung"
    phrases = anatomy_texts(BookSettings(anatomy_names="phrase"), "medslip")
    assert phrases[18] == "It is located at the left lower lung."
    assert len(phrases) == 51


@pytest.mark.parametrize(("share", "frozen"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_lower_layers_stay_frozen(share: float, frozen: int) -> None:
    shared = text_encoder(layers=4)
    tower = TextTower(shared, frozen_share=share, pooling="max", max_length=32)
    features = tower(tower.tokenize(list(TEXTS)))
    assert features.shape == (3, 32)
    if share < 1:
        features.sum().backward()
    model = tower.encoder.model
    trained = [any(p.grad is not None for p in layer.parameters()) for layer in model.encoder.layer]
    assert trained == [False] * frozen + [True] * (4 - frozen)
    assert (model.embeddings.word_embeddings.weight.grad is not None) == (share == 0)
    assert all(p.grad is None for p in shared.parameters())


def test_tower_is_a_copy() -> None:
    shared = text_encoder()
    tower = TextTower(shared, frozen_share=0.5, pooling="mean", max_length=32)
    expected = shared.embed(TEXTS, pooling="mean", max_length=32)
    torch.testing.assert_close(tower(tower.tokenize(list(TEXTS))), expected)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.zero_()
    torch.testing.assert_close(shared.embed(TEXTS, pooling="mean", max_length=32), expected)


def test_a_foreign_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="text encoder of the suite"):
        TextTower(nn.Linear(2, 2), frozen_share=0.5, pooling="max", max_length=32)
    flat = text_encoder()
    flat.model.encoder = nn.Identity()
    with pytest.raises(ConfigError, match="frozen_share: 0"):
        TextTower(flat, frozen_share=0.5, pooling="max", max_length=32)


def test_mean_direction_weighs_texts_alike() -> None:
    direction = mean_direction(torch.tensor([[10.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(direction, torch.tensor([0.5, 0.5]).sqrt())


def test_hidden_states_end_with_the_towers_answer() -> None:
    tower = TextTower(text_encoder(layers=3), frozen_share=0.0, pooling="cls", max_length=32)
    tokens = tower.tokenize(list(TEXTS))
    states = tower.hidden_states(tokens)
    assert len(states) == 4
    assert torch.equal(states[-1], tower.encoder(tokens))
    assert torch.equal(states[0], tower.encoder.model.embeddings(input_ids=tokens.input_ids))
    assert tower.tokenize(list(TEXTS), padding="max_length").input_ids.shape == (3, 32)


def test_cls_attention_is_that_of_the_last_layer() -> None:
    tower = TextTower(text_encoder(layers=3), frozen_share=0.0, pooling="cls", max_length=32)
    tokens = tower.tokenize(list(TEXTS))
    ours = tower.cls_attention(tower.hidden_states(tokens), tokens)
    tower.encoder.model.set_attn_implementation("eager")
    answer = tower.encoder.model(
        input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_attentions=True
    )
    torch.testing.assert_close(ours, answer.attentions[-1][:, :, 0].mean(1))
    assert torch.equal(ours == 0, tokens.attention_mask == 0)
    assert not ours.requires_grad


def test_a_tower_may_be_shortened() -> None:
    shared = text_encoder(layers=3)
    tower = TextTower(shared, frozen_share=0.0, pooling="cls", max_length=32, layers=2)
    tokens = tower.tokenize(list(TEXTS))
    full = TextTower(shared, frozen_share=0.0, pooling="cls", max_length=32)
    assert torch.equal(tower.encoder(tokens), full.hidden_states(tokens)[2])
    assert len(shared.model.encoder.layer) == len(full.hidden_states(tokens)) - 1 == 3
    longer = TextTower(shared, frozen_share=0.0, pooling="cls", max_length=32, layers=6)
    assert len(longer.hidden_states(tokens)) == 4
