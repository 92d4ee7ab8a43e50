//! Nodes that exchange datagrams and frames in memory.
