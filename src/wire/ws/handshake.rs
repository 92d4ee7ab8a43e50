//! WebSocket handshake (to be filled).
