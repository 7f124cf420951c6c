"""Settings of MeDSLIP: defaults are the corrected values, the recipe ``published`` sets the faithful ones."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from replication.method import Settings
from replication.networks.query_stream import QuerySettings
from replication.networks.triplet_losses import NegativeRule


class LossSettings(Settings):
    """Weights and details of the losses.

    Attributes:
        alpha: weight of ProtoCL (both streams); 0 leaves it out. beta: weight of ICL; 0 leaves it out.
        icl_scale: factor of the ICL logits: ``one`` (released code) or ``1/sqrt(d)`` (audit P3).
        mutate_matrix: set unmentioned cells of the caller's matrix to absent after the loss, as the
            released code does (audit P4).
        negatives_per_query: sampled for ProtoCL. negatives: from which cells (audit P6).
        anatomy_positive: whether an anatomy counts as present for ``any`` present observation (released
            code, "clear" included) or only for ``abnormal_only`` ones (audit P19).
        empty_batch: the loss of a batch with nothing to learn from; the released code gives NaN.
    """

    alpha: float = 1.0
    beta: float = 1.0
    icl_scale: Literal["one", "1/sqrt(d)"] = "1/sqrt(d)"
    mutate_matrix: bool = False
    negatives_per_query: int = 7
    negatives: NegativeRule = "absent_only_then_unmentioned"
    anatomy_positive: Literal["any", "abnormal_only"] = "abnormal_only"
    empty_batch: Literal["zero", "nan"] = "zero"


class GroundingSettings(Settings):
    """How heat maps are made (audit G1 to G5).

    Attributes:
        query_projection: ``random`` draws a new query projection from ``query_seed``, which is what the
            released grounding script amounts to (G1).
        mask_mode: ``mask_only`` feeds the gate itself to both streams (G2), ``gated`` the gated patches.
        anatomy_attention: multiply with the anatomy stream's attention: ``never``; of the anatomy that is
            ``asked`` for, if one is; or averaged over ``all`` 51 (option ``use_ws_p`` of the script, G3).
        normalise: divide by the largest value of the batch (released script, G5), of the image, or not.
    """

    query_projection: Literal["checkpoint", "random"] = "checkpoint"
    query_seed: int = 0
    mask_mode: Literal["gated", "mask_only"] = "gated"
    anatomy_attention: Literal["never", "asked", "all"] = "asked"
    normalise: Literal["none", "image_max", "batch_max"] = "none"


class MeDSLIPSettings(QuerySettings):
    """Settings of MeDSLIP.

    Attributes:
        gate: how patches are split between the streams: ``linear`` is the released code, g x and (1 - g) x
            with an unbounded g; ``sigmoid`` bounds g (audit P2); ``absent`` gives both all of x.
        streams: ``dual`` has a patch projection for each stream, ``shared`` one for both (ablation).
        share_decoder_norm: one final layer normalisation for both decoders (audit P1).
        share_query_projection: one projection for both text books (audit P17).
        fibrosis: a finding that stands in the catch-all class is scored with that class's query (``tail``,
            released code) or with a query made from its own text (audit Z2).
        relation: what scores a finding at a given anatomy: the ICL logit of the two features, the ProtoCL
            similarity of the finding with that anatomy's text (softmax over the 51), or ``none``: the score
            of the finding anywhere.
        relation_with_existence: add the finding's own log-probability to that of the relation.
    """

    gate: Literal["linear", "sigmoid", "absent"] = "sigmoid"
    streams: Literal["dual", "shared"] = "dual"
    share_decoder_norm: bool = False
    share_query_projection: bool = False
    loss: LossSettings = LossSettings()
    grounding: GroundingSettings = GroundingSettings()
    fibrosis: Literal["tail", "own_prompt"] = "own_prompt"
    relation: Literal["icl", "protocl", "none"] = "icl"
    relation_with_existence: bool = True

    @model_validator(mode="after")
    def _relation_is_trained(self) -> Self:
        untrained = {"icl": self.loss.beta == 0, "protocl": self.loss.alpha == 0, "none": False}
        if untrained[self.relation]:
            trained = [name for name, off in untrained.items() if not off]
            raise ValueError(f"relation={self.relation!r} is not trained with this loss; use {trained}")
        return self
