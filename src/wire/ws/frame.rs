//! WebSocket frame (to be filled).
