//! WebSocket mask (to be filled).
