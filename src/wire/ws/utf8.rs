//! WebSocket utf8 (to be filled).
