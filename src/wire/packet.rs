//! Rainbow packets (to be filled).
