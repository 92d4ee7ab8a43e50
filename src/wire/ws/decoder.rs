//! WebSocket decoder (to be filled).
