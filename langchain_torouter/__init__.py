"""torouter for LangChain: `RoutedChatModel` and `ChatTGI`."""
