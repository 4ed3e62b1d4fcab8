"""Measures the negative log-likelihood of a reference under an expert, from TGI's prefill logprobs."""

from __future__ import annotations

from torouter.chat import ChatRequest
from torouter.endpoints import TGIClient
from torouter.errors import ExpertNotFoundError, NLLUnavailableError


async def reference_nll(client: TGIClient, request: ChatRequest, reference: str) -> float:
    """Mean negative log-likelihood, in nats per token, of `reference` as the answer to `request`.

    The server's chat template turns the conversation into a prompt (`/chat_tokenize`); the reference is appended and
    the whole sent as a prompt (`/generate`), whose last tokens are the reference's, without the end-of-text token.
    Models whose tokenizer begins each text with a special token see it twice, as `/generate` adds it to the template's.

    Raises:
        NLLUnavailableError: The server has no such routes, or returns no logprobs of prompts.
        ExpertError: The server failed to answer.
    """
    name = client.expert.name
    try:
        prompt = await client.chat_tokenize(request)
        parameters = {"decoder_input_details": True, "max_new_tokens": 1, "stop": []}
        generated = await client.generate(prompt.text + reference, parameters=parameters)
    except ExpertNotFoundError:
        msg = f"expert {name!r}: its server has no /chat_tokenize or /generate of TGI, so nll stays empty"
        raise NLLUnavailableError(msg) from None
    ids = [token.get("id") for token in generated.prefill]
    # The template's last token may have merged with the reference's first.
    start = next((i for i in (0, 1) if ids[i : i + len(prompt.ids) - 1] == [*prompt.ids[:-1]]), None)
    tokens = [] if start is None else generated.prefill[start + len(prompt.ids) :]
    logprobs = [token.get("logprob") for token in tokens]
    numbers = [logprob for logprob in logprobs if isinstance(logprob, (int, float))]
    if not numbers or len(numbers) < len(logprobs):
        msg = (
            f"expert {name!r}: its server returns no logprobs of a prompt's tokens, so nll stays empty: "
            "start it with --enable-prefill-logprobs (TGI 3.0 and newer)"
        )
        raise NLLUnavailableError(msg)
    return -sum(numbers) / len(numbers)
