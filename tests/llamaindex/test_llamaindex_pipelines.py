"""RoutedLLM in the pipelines that LlamaIndex's users have: who served, what was routed, and tokens counted once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from llama_index.core import Document, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.callbacks import TokenCountingHandler
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.evaluation import FaithfulnessEvaluator, RelevancyEvaluator
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.tools import QueryEngineTool
from pydantic import BaseModel

from llamaindex_torouter import RoutedLLM
from tests.support.llamaindex_world import World, counter, experts_of, listening, world
from tests.support.scripted_tgi import Text
from torouter import routing_text

CONTEXT = "code " * 3000
"""Three thousand tokens that would take a router that reads them to the wrong expert."""
QUESTION = "ask math about roots"


@dataclass
class Pipeline:
    """The world, the LLM of a pipeline with a window for much context, and all counts and events."""

    world: World
    llm: RoutedLLM
    tokens: TokenCountingHandler
    events: list[Any]

    @property
    def served(self) -> list[str]:
        return experts_of(self.events)

    def check_counts(self) -> None:
        """Every request to a server was counted, and none twice."""
        ends = [event for event in self.events if event.class_name() == "LLMChatEndEvent"]
        usages = [event.response.raw["usage"] for event in ends]
        assert len(self.tokens.llm_token_counts) == len(usages) == sum(self.world.asked)
        assert self.tokens.total_llm_token_count == sum(usage["total_tokens"] for usage in usages)


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with world() as made, listening() as events:
        experts = {
            name: {"url": server.url, "context_window": 16_384}
            for name, server in (("code", made.code), ("math", made.math))
        }
        handler, Settings.callback_manager = counter()
        try:
            yield Pipeline(made, made.again(experts=experts), handler, events)
        finally:
            Settings._callback_manager = None
            assert Settings._llm is None


def stuffed() -> SummaryIndex:
    return SummaryIndex.from_documents([Document(text=CONTEXT)])


# --- the question is routed, not the context around it ---


def test_without_help_the_context_would_be_routed(pipeline: Pipeline) -> None:
    assert pipeline.llm.route(f"{CONTEXT}\n{QUESTION.replace('math', 'm')}").expert == "code"
    pipeline.llm.predict(PromptTemplate("{context}\n{question}"), context=CONTEXT, question="what is m?")
    assert pipeline.served == ["code"]


@pytest.mark.parametrize("context", [CONTEXT, "short"])
@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize", "accumulate"])
async def test_a_question_gets_the_same_expert_with_and_without_much_context(
    pipeline: Pipeline, mode: Any, context: str
) -> None:
    index = SummaryIndex.from_documents([Document(text=context)])
    engine = index.as_query_engine(llm=pipeline.llm, response_mode=mode)
    assert "test/math" in str(engine.query(QUESTION))
    assert "test/math" in str(await engine.aquery(QUESTION))
    assert set(pipeline.served) == {"math"}
    sent = pipeline.world.math.requests[-1].body["messages"][-1]["content"]
    assert context.strip()[-40:] in sent
    pipeline.check_counts()


async def test_streamed_answers_are_routed_by_the_question_too(pipeline: Pipeline) -> None:
    engine = stuffed().as_query_engine(llm=pipeline.llm, streaming=True)
    response: Any = engine.query(QUESTION)
    assert "test/math" in "".join(response.response_gen)
    later: Any = await engine.aquery(QUESTION)
    assert "test/math" in "".join([token async for token in later.response_gen])
    assert pipeline.served == ["math", "math"]
    pipeline.check_counts()


class Fact(BaseModel):
    """A fact."""

    text: str


@pytest.mark.parametrize("how", ["output_cls", "structured_llm"])
async def test_structured_answers_are_routed_by_the_question_too(pipeline: Pipeline, how: str) -> None:
    if how == "output_cls":
        engine = stuffed().as_query_engine(llm=pipeline.llm, output_cls=Fact)
    else:
        engine = stuffed().as_query_engine(llm=pipeline.llm.as_structured_llm(Fact))
    engine.query(QUESTION)
    await engine.aquery(QUESTION)
    assert pipeline.served == ["math", "math"]


def test_a_template_may_call_the_question_otherwise(pipeline: Pipeline) -> None:
    template = PromptTemplate("{facts}\n{asked}", template_var_mappings={"context_str": "facts", "query_str": "asked"})
    stuffed().as_query_engine(llm=pipeline.llm, text_qa_template=template).query(QUESTION)
    assert pipeline.served == ["math"]


def test_the_callers_own_routing_text_wins_over_the_question(pipeline: Pipeline) -> None:
    with routing_text("ask code"):
        stuffed().as_query_engine(llm=pipeline.llm).query(QUESTION)
    assert pipeline.served == ["code"]


def test_the_question_is_not_sent_twice(pipeline: Pipeline) -> None:
    stuffed().as_query_engine(llm=pipeline.llm).query(QUESTION)
    assert str(pipeline.world.math.requests[0].body).count(QUESTION) == 1


# --- chat engines, sub-questions, evaluators, agents ---


@pytest.mark.parametrize("mode", ["context", "condense_plus_context"])
async def test_a_chat_engine_over_documents_is_routed_by_what_the_user_says(pipeline: Pipeline, mode: Any) -> None:
    index = VectorStoreIndex.from_documents([Document(text=CONTEXT)], embed_model=MockEmbedding(embed_dim=8))
    engine = index.as_chat_engine(chat_mode=mode, llm=pipeline.llm)
    assert "test/math" in str(engine.chat(QUESTION))
    assert pipeline.served == ["math"]
    if mode == "condense_plus_context":  # it asks for a question that stands alone before it answers the second turn
        pipeline.world.math.script(Text("ask math about squares"))
    response = await engine.achat("ask math about squares")
    assert "test/math" in str(response)
    assert set(pipeline.served) == {"math"}
    assert response.source_nodes
    pipeline.check_counts()


async def test_a_chat_engine_is_routed_by_its_last_user_turn(pipeline: Pipeline) -> None:
    engine = SimpleChatEngine.from_defaults(llm=pipeline.llm)
    engine.chat("ask math")
    streamed = engine.stream_chat("ask code")
    assert "test/code" in "".join(streamed.response_gen)
    await engine.achat("ask math again")
    assert pipeline.served == ["math", "code", "math"]
    assert len(pipeline.world.math.requests[-1].body["messages"]) == 5
    pipeline.check_counts()


async def test_sub_questions_are_routed_one_by_one(pipeline: Pipeline) -> None:
    tools = [
        QueryEngineTool.from_defaults(
            SummaryIndex.from_documents([Document(text=f"about {name}")]).as_query_engine(llm=pipeline.llm),
            name=name,
            description=f"knows {name}",
        )
        for name in ("maths", "coding")
    ]
    parts = [
        {"sub_question": "ask math for a root", "tool_name": "maths"},
        {"sub_question": "ask code for a loop", "tool_name": "coding"},
    ]
    pipeline.world.code.script(Text(json.dumps({"items": parts})))
    engine = SubQuestionQueryEngine.from_defaults(
        tools,
        llm=pipeline.llm,
        question_gen=LLMQuestionGenerator.from_defaults(llm=pipeline.llm),
        use_async=False,
        verbose=False,
    )
    response = await engine.aquery("a root and a loop")
    first, *answers, last = pipeline.served  # the parts, their answers in any order, the summary
    assert (first, sorted(answers), last) == ("code", ["code", "math"], "code")
    assert "test/code" in str(response)
    assert len(response.source_nodes) == 4  # two documents, two answered parts
    pipeline.check_counts()


async def test_evaluators_judge_through_it(pipeline: Pipeline) -> None:
    pipeline.world.math.always(Text("YES"))
    faithful = FaithfulnessEvaluator(llm=pipeline.llm)
    relevant = RelevancyEvaluator(llm=pipeline.llm)
    for evaluator in (faithful, relevant):
        result = await evaluator.aevaluate(query=QUESTION, response="ask math a root is 4", contexts=[CONTEXT])
        assert result.passing
    assert pipeline.served == ["math", "math"]
    pipeline.check_counts()


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_stays_with_its_expert_through_a_tool_loop(pipeline: Pipeline, streaming: bool) -> None:
    called: list[int] = []

    def square(x: int) -> int:
        """The square of a number."""
        called.append(x)
        return x * x

    agent = FunctionAgent(tools=[square], llm=pipeline.llm, streaming=streaming, system_prompt="You know code.")
    response = await agent.run("ask math for the square of 12")
    assert called == [12]
    assert "The tool says: 144" in str(response)
    assert pipeline.served == ["math", "math"]
    last = pipeline.world.math.requests[-1].body["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "tool"]
    assert last[3]["tool_call_id"] == last[2]["tool_calls"][0]["id"]
    pipeline.check_counts()
