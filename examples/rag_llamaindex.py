"""Retrieval-augmented generation with LlamaIndex and real experts, in two ways.

    .venv/bin/python examples/rag_llamaindex.py

1. A query engine per expert. TORouterSelector chooses the engine.
2. One query engine with RoutedLLM as its LLM. It chooses the expert by the question, not by the context around it.

Both use the same router, so both choose the same expert.
"""

from __future__ import annotations

from embedding import RouterEmbedding
from llama_index.core import Document, PromptTemplate, VectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.tools import QueryEngineTool
from local import HERE, local_experts, local_router

from llamaindex_torouter import TGILLM, RoutedLLM, RouteServedEvent, TORouterSelector

QUESTIONS = (
    "Who bakes the buns at the quay?",
    "Write a Python function celsius(f) that returns degrees Celsius.",
    "How much do 4 tickets for the ferry cost together?",
    "Which stone is the lighthouse made of?",
)
# Shorter than LlamaIndex's default, which a model of 135 M parameters repeats instead of answering.
TEMPLATE = PromptTemplate("{context_str}\n\n{query_str}")


class Served(BaseEventHandler):
    """Stores the name of the expert that served last."""

    expert: str = ""

    def handle(self, event: object, **_: object) -> None:
        if isinstance(event, RouteServedEvent):
            self.expert = event.expert


def main() -> None:
    router = local_router()
    documents = [
        Document(text=file.read_text(), metadata={"file_name": file.name}, excluded_llm_metadata_keys=["file_name"])
        for file in sorted((HERE / "documents").glob("*.md"))
    ]
    index = VectorStoreIndex.from_documents(documents, embed_model=RouterEmbedding(router))
    served = Served()
    get_dispatcher().add_event_handler(served)
    options = {"similarity_top_k": 1, "text_qa_template": TEMPLATE}
    with local_experts() as experts:
        tools = [
            QueryEngineTool.from_defaults(
                index.as_query_engine(llm=TGILLM.of_expert(expert), **options), name=name, description=f"asks {name}"
            )
            for name, expert in experts.items()
        ]
        routed = RoutedLLM(router=router, experts=experts)
        selecting = RouterQueryEngine(TORouterSelector(router), tools, llm=routed)
        one_engine = index.as_query_engine(llm=routed, **options)
        for question in QUESTIONS:
            print(f"\n{question}")
            response = selecting.query(question)
            print(f"  sources   {', '.join(node.metadata['file_name'] for node in response.source_nodes)}")
            chosen = tools[response.metadata["selector_result"].ind].metadata.name
            print(f"  selector  {chosen}: {shown(str(response))}")
            response = one_engine.query(question)
            print(f"  RoutedLLM {served.expert}: {shown(str(response))}")


def shown(answer: str) -> str:
    """The answer, its further lines indented."""
    return answer.strip().replace("\n", "\n            ")


if __name__ == "__main__":
    main()
