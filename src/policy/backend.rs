//! Backend policy (to be filled).
