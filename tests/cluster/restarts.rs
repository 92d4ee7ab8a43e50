//! Nodes that are restarted one after the other while everybody goes on.
