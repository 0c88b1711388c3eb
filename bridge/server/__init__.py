"""Our own server: uvicorn with drain, request limits and WebSocket flow control."""
