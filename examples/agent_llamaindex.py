"""A LlamaIndex FunctionAgent with a tool. Every step is routed; all steps of a turn stay with its question's expert.

    .venv/bin/python examples/agent_llamaindex.py

SmolLM2 can't call tools, so the experts here are the scripted TGI servers of this project's tests: they answer by
fixed rules, over real sockets. To use real experts, put their addresses in place of `server.url`.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path

from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCall, ToolCallResult
from local import local_router

from llamaindex_torouter import RoutedLLM

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tests.support.scripted_tgi import ScriptedTGI

PRICES = {"person": 6, "bicycle": 9, "dog": 0}


def ticket_price(passenger: str) -> int:
    """The price of a ferry ticket in euros for a passenger: person, bicycle or dog."""
    return PRICES[passenger]


async def main() -> None:
    router = local_router()
    with ExitStack() as stack:
        servers = {name: stack.enter_context(ScriptedTGI(model_id=f"scripted/{name}")) for name in router.experts}
        llm = RoutedLLM(router=router, experts={name: server.url for name, server in servers.items()})
        agent = FunctionAgent(tools=[ticket_price], llm=llm, system_prompt="You sell tickets for the ferry.")
        question = "What is the ticket price for a 'bicycle'?"
        print(question)
        print(f"  routed to {llm.route(question).expert}")
        handler = agent.run(question)
        async for event in handler.stream_events():
            if isinstance(event, ToolCallResult):
                print(f"  {event.tool_name}({event.tool_kwargs}) gives {event.tool_output.content}")
            elif isinstance(event, ToolCall):
                print(f"  asks for {event.tool_name}")
            elif isinstance(event, AgentStream) and event.delta:
                print(event.delta if event.response != event.delta else f"  {event.delta}", end="", flush=True)
        await handler
        print()
        for name, server in servers.items():
            print(f"  {name} was asked {len(server.requests)} times")


if __name__ == "__main__":
    asyncio.run(main())
