//! HTTP/1.1 head (to be filled).
