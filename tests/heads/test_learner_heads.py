"""An ensemble's heads: a mean over learners of each one's own; to everybody else one head of whole embeddings."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from askd.centres import whole
from askd.heads.classifier import MarginHead
from askd.heads.learners import LearnerHeads
from askd.heads.metric import MetricHead

LEARNERS, WIDTH, CLASSES = 3, 4, 5


def draw(seed=0, images=6):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(images, LEARNERS, WIDTH, generator=generator), torch.randint(CLASSES, (images,), generator=generator)


@pytest.mark.parametrize("options", [dict(kind="arcface"), dict(kind="adaface", margin=0.4), dict(kind="cosface", margin=0.3, subcentres=2)])
def test_loss_is_the_mean_of_each_learner_s_own(options):
    torch.manual_seed(0)
    heads = [MarginHead(WIDTH, CLASSES, logit_scale=16, **options) for _ in range(LEARNERS)]
    learners, label = draw()
    together = LearnerHeads(heads).eval()
    alone = [head(learners[:, m], label) for m, head in enumerate(heads)]
    torch.testing.assert_close(together(learners, label), sum(alone) / LEARNERS)
    torch.testing.assert_close(together.logits(learners, label), sum(head.logits(learners[:, m], label) for m, head in enumerate(heads)) / 3)


def test_class_centres_are_each_learner_s_own():
    torch.manual_seed(0)
    together = LearnerHeads([MarginHead(WIDTH, CLASSES) for _ in range(LEARNERS)])
    learners, label = draw()
    together.heads[1](learners[:, 1], label).backward()
    assert [head.centres.grad is not None for head in together.heads] == [False, True, False]


def test_cosines_are_those_of_whole_embeddings_to_whole_centres():
    torch.manual_seed(0)
    together = LearnerHeads([MarginHead(WIDTH, CLASSES, logit_scale=16) for _ in range(LEARNERS)])
    learners, _ = draw()
    one = MarginHead(LEARNERS * WIDTH, CLASSES, logit_scale=16)
    one.load_state_dict(whole(together.state_dict()))
    embedding = F.normalize(learners, dim=2).flatten(1)
    torch.testing.assert_close(one.cosine(embedding), together.cosine(learners), rtol=0, atol=1e-6)
    assert together.logit_scale == 16


def test_all_warm_up_together_and_remember():
    together = LearnerHeads([MarginHead(WIDTH, CLASSES) for _ in range(LEARNERS)])
    together.warm_up(4)
    for _ in range(2):
        together.train()(*draw())
    assert [head.warmup.part() for head in together.heads] == [0.25] * 3  # of the second step
    again = LearnerHeads([MarginHead(WIDTH, CLASSES) for _ in range(LEARNERS)])
    again.warm_up(4)
    again.load_state_dict(together.state_dict())
    assert [head.warmup.done for head in again.heads] == [2] * 3


def test_a_metric_loss_for_each_learner():
    learners, label = draw()
    together = LearnerHeads([MetricHead("triplet", 0.2) for _ in range(LEARNERS)])
    alone = [MetricHead("triplet", 0.2)(learners[:, m], label) for m in range(LEARNERS)]
    torch.testing.assert_close(together(learners, label), sum(alone) / LEARNERS)
