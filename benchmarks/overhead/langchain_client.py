"""Contender of `benchmarks.overhead`: LangChain's ChatOpenAI, one endpoint, no router."""

from __future__ import annotations

from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]  # in an environment of its own

from benchmarks.overhead.call_load import MAX_TOKENS, ChatModel, work


def make(url: str) -> ChatModel:
    """The model, without retries, which nothing here needs."""
    return ChatModel(
        ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="tgi", max_tokens=MAX_TOKENS, max_retries=0)
    )


if __name__ == "__main__":
    work(make, "langchain-openai", "langchain-core", "openai")
