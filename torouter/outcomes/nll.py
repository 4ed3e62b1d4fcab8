"""Measures the negative log-likelihood of a reference under an expert, from TGI's prefill logprobs."""

from __future__ import annotations

from torouter.chat import ChatRequest
from torouter.endpoints import TGIClient
from torouter.errors import ExpertNotFoundError, NLLUnavailableError


async def reference_nll(client: TGIClient, request: ChatRequest, reference: str) -> float:
    """Mean negative log-likelihood, in nats per token, of `reference` as the answer to `request`.

    The server applies its template to the conversation (`/chat_tokenize`); the reference is appended, and the whole is
    sent as a prompt (`/generate`), whose last tokens are the reference's. The end-of-text token is not included. If the
    tokenizer starts each text with a special token, the model sees it twice: once from the template, once from
    `/generate`.

    Raises:
        NLLUnavailableError: The server has no such routes, or returns no logprobs of prompts.
        ExpertError: The server failed to answer.
    """
    name = client.expert.name
    try:
        prompt = await client.chat_tokenize(request)
        parameters = {"decoder_input_details": True, "max_new_tokens": 1, "stop": []}
        reply = await client.generate(prompt.text + reference, parameters=parameters)
    except ExpertNotFoundError:
        msg = f"expert {name!r}: its server has no /chat_tokenize and /generate as TGI has, so nll stays empty"
        raise NLLUnavailableError(msg) from None
    ids = [token.get("id") for token in reply.prefill]
    # The last token of the template may have merged with the reference's first.
    start = next((i for i in (0, 1) if ids[i : i + len(prompt.ids) - 1] == [*prompt.ids[:-1]]), None)
    logprobs = [token.get("logprob") for token in reply.prefill[start + len(prompt.ids) :]] if start is not None else []
    known = [logprob for logprob in logprobs if isinstance(logprob, (int, float))]
    if not known or len(known) < len(logprobs):
        msg = (
            f"expert {name!r}: its server returns no logprobs of a prompt's tokens, so nll stays empty: "
            "start it with --enable-prefill-logprobs (TGI 3.0 and newer)"
        )
        raise NLLUnavailableError(msg)
    return -sum(known) / len(known)
