"""Delivery protocols: SSE, NDJSON, WebSocket and long-poll, and the subscriptions behind them."""
