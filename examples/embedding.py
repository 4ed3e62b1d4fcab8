"""Sentence embeddings for LlamaIndex from the router's own encoder: one model for both, on ONNX Runtime."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from torouter import EncodedRouter


class RouterEmbedding(BaseEmbedding):
    """The mean-pooled, normalised vectors of a KNNRouter's or MLPRouter's encoder."""

    _router: EncodedRouter = PrivateAttr()

    def __init__(self, router: EncodedRouter, **kwargs: Any) -> None:
        super().__init__(model_name=router.config.encoder, **kwargs)
        self._router = router

    @classmethod
    def class_name(cls) -> str:
        return "torouter_embedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._router.features(texts).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)
