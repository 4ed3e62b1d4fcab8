"""What the head of a torch model reads, also where several threads share the model."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from torouter.routers.encoders.torch_encoder import head_input


class Shared(torch.nn.Module):
    """A model of which `threads` passes are always inside at once."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(2, 3)
        self._all_inside = threading.Barrier(threads, timeout=10)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        self._all_inside.wait()
        read = self.head(input_ids * attention_mask)
        self._all_inside.wait()
        return read


def test_threads_that_share_a_model_each_get_the_features_of_their_own_queries() -> None:
    model, mask = Shared(4), torch.ones(1, 2)
    queries = [torch.full((1, 2), float(number)) for number in range(4)]

    with ThreadPoolExecutor(4) as threads:
        features = list(threads.map(lambda ids: head_input(model, model.head, ids, mask), queries))

    assert [row.tolist() for row in features] == [ids.tolist() for ids in queries]


def test_a_model_is_left_as_it_was() -> None:
    model = Shared(1)

    head_input(model, model.head, torch.ones(1, 2), torch.ones(1, 2))

    assert not model.head._forward_pre_hooks
