"""One TGI endpoint, or any other server with `/v1/chat/completions`, in its own dialect."""
