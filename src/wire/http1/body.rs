//! HTTP/1.1 body (to be filled).
