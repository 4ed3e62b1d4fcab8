"""RoutedChatModel in the pipelines that LangChain's users have: who served, what was routed, tokens counted once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from langchain_torouter import RoutedChatModel
from tests.support.scripted_tgi import ScriptedTGI
from tests.support.word_router import WordRouter
from torouter import routing_text

CONTEXT = "code " * 3000
"""Three thousand tokens that would take a router that reads them to the wrong expert."""
QUESTION = "ask math about roots"
LIMITS = {"max_input_tokens": 16_383, "max_total_tokens": 16_384}
STUFFED = ChatPromptTemplate.from_messages([("user", "Context: {context}\nAnswer this: {question}")])
APART = ChatPromptTemplate.from_messages([("system", "Answer from: {context}"), ("user", "{question}")])


@dataclass
class Pipeline:
    """Two experts behind scripted servers, the model that routes between them, and LangChain's own token counter."""

    code: ScriptedTGI
    math: ScriptedTGI
    model: RoutedChatModel
    usage: UsageMetadataCallbackHandler

    @property
    def config(self) -> RunnableConfig:
        return {"callbacks": [self.usage]}

    def check_counts(self, *messages: AIMessage) -> None:
        """What was counted is what these answers, one of each request, say of themselves."""
        assert len(messages) == len(self.code.requests) + len(self.math.requests)
        counted = sum(usage["total_tokens"] for usage in self.usage.usage_metadata.values())
        assert counted == sum(message.usage_metadata["total_tokens"] for message in messages if message.usage_metadata)


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    router = WordRouter.named({"code": 0.6, "math": 0.5})
    with ScriptedTGI(model_id="test/code", **LIMITS) as code, ScriptedTGI(model_id="test/math", **LIMITS) as math:
        model = RoutedChatModel(router=router, experts={"code": code.url, "math": math.url})
        yield Pipeline(code, math, model, UsageMetadataCallbackHandler())


def retrieval(prompt: ChatPromptTemplate, model: Runnable[Any, AIMessage], context: str) -> Runnable[str, AIMessage]:
    """retriever | prompt | model, as LangChain's documentation has it."""
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document(context)])
    texts = store.as_retriever() | (lambda documents: "\n".join(document.page_content for document in documents))
    return {"context": texts, "question": RunnablePassthrough()} | prompt | model


def expert(message: AIMessage) -> str:
    name: str = message.response_metadata["routing"]["expert"]
    return name


# --- the question is routed, not the context around it ---


def test_without_help_a_stuffed_prompt_is_routed_by_its_context(pipeline: Pipeline) -> None:
    question = "what is a root?"
    assert expert(retrieval(STUFFED, pipeline.model, CONTEXT).invoke(question)) == "code"


@pytest.mark.parametrize("context", [CONTEXT, "short"])
async def test_a_question_in_a_turn_of_its_own_gets_the_same_expert_with_and_without_much_context(
    pipeline: Pipeline, context: str
) -> None:
    chain = retrieval(APART, pipeline.model, context)
    answers = [chain.invoke(QUESTION, pipeline.config), await chain.ainvoke(QUESTION, pipeline.config)]
    assert [expert(answer) for answer in answers] == ["math", "math"]
    assert context.strip() in pipeline.math.requests[0].body["messages"][0]["content"]
    pipeline.check_counts(*answers)


@pytest.mark.parametrize("context", [CONTEXT, "short"])
@pytest.mark.parametrize("how", ["block", "configurable", "bound"])
async def test_a_stuffed_question_gets_the_same_expert_where_the_caller_names_it(
    pipeline: Pipeline, context: str, how: str
) -> None:
    question = "what is a root?"
    if how == "bound":
        chain = retrieval(STUFFED, pipeline.model.bind(routing_text="ask math"), context)
        answers = [chain.invoke(question, pipeline.config), await chain.ainvoke(question, pipeline.config)]
    else:
        chain = retrieval(STUFFED, pipeline.model, context)
        if how == "block":
            with routing_text("ask math"):
                answers = [chain.invoke(question, pipeline.config), await chain.ainvoke(question, pipeline.config)]
        else:
            config: RunnableConfig = {**pipeline.config, "configurable": {"routing_text": "ask math"}}
            answers = [chain.invoke(question, config), await chain.ainvoke(question, config)]
    assert [expert(answer) for answer in answers] == ["math", "math"]
    pipeline.check_counts(*answers)


async def test_a_streamed_chain_with_a_parser_is_routed_by_the_question_too(pipeline: Pipeline) -> None:
    chain = retrieval(STUFFED, pipeline.model, CONTEXT) | StrOutputParser()
    with routing_text("ask math"):
        assert "test/math" in "".join(chain.stream(QUESTION, pipeline.config))
        assert "test/math" in "".join([piece async for piece in chain.astream(QUESTION, pipeline.config)])
    assert list(pipeline.usage.usage_metadata) == ["test/math"]
    assert len(pipeline.math.requests) == 2


def test_a_batch_of_a_chain_is_routed_question_by_question(pipeline: Pipeline) -> None:
    answers = retrieval(APART, pipeline.model, CONTEXT).batch(["ask math", "ask code"], pipeline.config)
    assert [expert(answer) for answer in answers] == ["math", "code"]
    pipeline.check_counts(*answers)


# --- agents and graphs ---


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_agent_stays_with_its_expert_through_a_tool_loop(pipeline: Pipeline, asynchronous: bool) -> None:
    def square(x: int) -> int:
        """The square of a number."""
        return x * x

    agent = create_agent(pipeline.model, [square], system_prompt="You know code.")
    asked: Any = {"messages": [("user", "ask math for the square of 12")]}
    state = await agent.ainvoke(asked, pipeline.config) if asynchronous else agent.invoke(asked, pipeline.config)
    answers = [message for message in state["messages"] if isinstance(message, AIMessage)]
    assert [expert(answer) for answer in answers] == ["math", "math"]
    assert "144" in answers[-1].text
    pipeline.check_counts(*answers)


class State(TypedDict):
    """A conversation."""

    messages: Annotated[list[AnyMessage], add_messages]


async def test_a_graph_with_a_memory_routes_each_turn(pipeline: Pipeline) -> None:
    async def answer(state: State) -> State:
        return {"messages": [await pipeline.model.ainvoke(state["messages"])]}

    builder = StateGraph(State)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    config: RunnableConfig = {**pipeline.config, "configurable": {"thread_id": "1"}}
    await graph.ainvoke({"messages": [("user", "ask math")]}, config)
    state = await graph.ainvoke({"messages": [("user", "ask code")]}, config)
    answers = [message for message in state["messages"] if isinstance(message, AIMessage)]
    assert [expert(one) for one in answers] == ["math", "code"]
    assert len(pipeline.code.requests[0].body["messages"]) == 3
    pipeline.check_counts(*answers)


async def test_a_graph_streams_the_experts_tokens(pipeline: Pipeline) -> None:
    def answer(state: State) -> State:
        return {"messages": [pipeline.model.invoke(state["messages"])]}

    builder = StateGraph(State)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    graph = builder.compile()
    pieces = [
        message.text
        async for message, _ in graph.astream(
            {"messages": [("user", "ask math")]}, pipeline.config, stream_mode="messages"
        )
    ]
    assert len(pieces) > 3
    assert "test/math" in "".join(pieces)
    assert len(pipeline.math.requests) == 1
